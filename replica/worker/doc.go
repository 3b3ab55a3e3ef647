// Package worker answers predictions on the streams of gateways: it serves WorkerService, queues what
// arrives, and evaluates it in batches.
//
// A batch is formed without a timer: an executor that becomes free takes what arrived while it was busy, up
// to a number of rows. So a lone request waits for nothing, and a busy worker batches by itself.
//
//   - server.go  the streams: frames in, replies out, cancellation
//   - queue.go   what waits between the streams and the executors
//   - batch.go   from payloads to rows, through the forest, to replies
//   - encode.go  PredictResponse, written without building messages
//   - model.go   the models that are served
package worker
