package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/coppice-mesh/coppice/gateway/client"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

// One row as it is easy to write. For many rows, a tensor is cheaper; for many requests, a Stream.
func Example() {
	c, err := client.Dial("127.0.0.1:8001")
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	res, err := c.Predict(ctx, &coppicev1.PredictRequest{
		Model:     "iris",
		Instances: []*coppicev1.Instance{{Values: []float64{5.1, 3.5, 1.4, 0.2}}},
	})
	if err != nil {
		log.Print(err) // a gRPC status: status.Code(err) tells what to do
		return
	}
	fmt.Println(res.GetClasses(), res.GetPredictions()[0].GetLabel(), res.GetPredictions()[0].GetScores())
}

// A Stream carries the requests of many goroutines.
func ExampleClient_Stream() {
	c, err := client.Dial("127.0.0.1:8001")
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()
	stream, err := c.Stream(context.Background())
	if err != nil {
		log.Print(err)
		return
	}
	defer stream.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	res, err := stream.Do(ctx, &coppicev1.PredictRequest{
		Model:     "iris",
		Instances: []*coppicev1.Instance{{Values: []float64{5.1, 3.5, 1.4, 0.2}}},
	})
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println(res.GetPredictions()[0].GetLabel())
}
