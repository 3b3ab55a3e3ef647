// Package server is the balancer on the network: BalancerService for gateways, replicas and operators, and the
// metrics and trace services of OTLP, all on the control address. It decides nothing; it turns messages into
// calls and errors into statuses.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	colmetricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/coppice-mesh/coppice/balancer/expose"
	"github.com/coppice-mesh/coppice/balancer/roster"
	"github.com/coppice-mesh/coppice/balancer/supervise"
	"github.com/coppice-mesh/coppice/balancer/track"
	coppicev1 "github.com/coppice-mesh/coppice/proto/gen/coppice/v1"
)

const (
	// MaxMessageBytes bounds every message that comes in. The largest are exports of metrics and traces.
	MaxMessageBytes = 4 << 20
	// chunkBytes is how much of a model file goes into a message.
	chunkBytes = 256 << 10
	// maxName bounds the strings with which a gateway names itself, in bytes.
	maxName = 256
)

// Errors of Scaler, to be matched with errors.Is.
var (
	// ErrBounds says that a size is not one that the user allows.
	ErrBounds = errors.New("size is out of bounds")
	// ErrMachineFull says that the machine cannot run so many workers.
	ErrMachineFull = errors.New("machine full")
)

// Scaler is who decides the size of the pool.
type Scaler interface {
	// Status describes the decision in force.
	Status() *coppicev1.ScaleStatus
	// Pin sets the size. The error wraps ErrBounds or ErrMachineFull.
	Pin(replicas int64) error
	// Auto gives the size back to the policy.
	Auto()
}

// Model is a model that replicas may fetch.
type Model struct {
	Served *coppicev1.ServedModel
	// Path is its canonical file, which must not change.
	Path string
}

// Settings is what a Server works with. All fields are needed.
type Settings struct {
	Supervisor *supervise.Supervisor
	Roster     *roster.Roster
	Scaler     Scaler
	Tracker    *track.Tracker
	Page       *expose.Page
	Models     []Model
	// Traces takes the spans of the mesh. It must not block.
	Traces func(*coltracepb.ExportTraceServiceRequest)
	// Version is that of the binary.
	Version string
	Logger  *slog.Logger
}

// Server serves the control address.
type Server struct {
	Settings
	grpc   *grpc.Server
	health *health.Server

	closing context.Context // done when streams are to end
	close   context.CancelFunc
	streams sync.WaitGroup // readers of streams
}

// New makes a server.
func New(s Settings) *Server {
	srv := &Server{
		Settings: s,
		health:   health.NewServer(),
		grpc: grpc.NewServer(
			grpc.MaxRecvMsgSize(MaxMessageBytes),
			grpc.MaxConcurrentStreams(4096),
			grpc.ConnectionTimeout(10*time.Second),
			// A peer whose machine is gone says nothing; its streams should end before its lease is of no use.
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		),
	}
	srv.closing, srv.close = context.WithCancel(context.Background())
	coppicev1.RegisterBalancerServiceServer(srv.grpc, control{Server: srv})
	colmetricspb.RegisterMetricsServiceServer(srv.grpc, metrics{Server: srv})
	coltracepb.RegisterTraceServiceServer(srv.grpc, traces{Server: srv})
	healthpb.RegisterHealthServer(srv.grpc, srv.health)
	return srv
}

// Server is the gRPC server, for those who serve more on the control address. Register before Serve.
func (s *Server) Server() *grpc.Server { return s.grpc }

// statuses is the one place where errors become codes.
var statuses = []struct {
	err  error
	code codes.Code
}{
	{supervise.ErrToken, codes.Unauthenticated},
	{supervise.ErrHello, codes.InvalidArgument},
	{supervise.ErrTooMany, codes.ResourceExhausted},
	{supervise.ErrNotFound, codes.NotFound},
	{supervise.ErrClosed, codes.Unavailable},
	{supervise.ErrReplaced, codes.Aborted},
	{roster.ErrTooMany, codes.ResourceExhausted},
	{roster.ErrReplaced, codes.Aborted},
	{ErrBounds, codes.InvalidArgument},
	{ErrMachineFull, codes.ResourceExhausted},
	{errHello, codes.InvalidArgument},
	{errNoModel, codes.NotFound},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

var (
	errHello   = errors.New("bad hello")
	errNoModel = errors.New("no model with this hash is served")
)

// toStatus is what a peer is told. Errors that are statuses already, those of streams, stay as they are.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return status.Error(s.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// until joins the context of a stream and the life of the server.
func (s *Server) until(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.closing, func() { cancel(supervise.ErrClosed) })
	return ctx, func(err error) {
		stop()
		cancel(err)
	}
}

// control is BalancerService.
type control struct {
	coppicev1.UnimplementedBalancerServiceServer
	*Server
}

// Watch sends views to a gateway and takes its acknowledgements and reports.
func (s control) Watch(stream coppicev1.BalancerService_WatchServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	id := req.GetHello().GetGateway()
	if id == "" || len(id) > maxName || len(req.GetHello().GetVersion()) > maxName {
		return toStatus(fmt.Errorf("%w: the first message of a gateway has a name of %d bytes, expected 1 to %d", errHello, len(id), maxName))
	}
	sub, err := s.Roster.Subscribe(id)
	if err != nil {
		return toStatus(err)
	}
	defer sub.Close()
	s.Logger.Info("gateway watches", "gateway", id, "version", req.GetHello().GetVersion())
	ctx, cancel := s.until(stream.Context())
	defer cancel(nil)
	// The reader ends when this method has returned: gRPC then ends its Recv.
	s.streams.Go(func() {
		for {
			if req.GetReport() != nil {
				sub.Report(req.GetReport())
			}
			if g := req.GetAcknowledgedGeneration(); g > 0 {
				sub.Acknowledge(g)
			}
			var err error
			if req, err = stream.Recv(); err != nil {
				cancel(err)
				return
			}
		}
	})
	for {
		view, err := sub.Next(ctx)
		if err == nil {
			err = stream.Send(view)
		}
		if err != nil {
			s.Logger.Info("gateway watches no more", "gateway", id, "error", err)
			return ended(err)
		}
	}
}

// ended is how a stream ends for the peer: without error when the peer itself ended it.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return toStatus(err)
}

// Join is the control stream of a replica.
func (s control) Join(stream coppicev1.BalancerService_JoinServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	session, err := s.Supervisor.Join(req.GetHello())
	if err != nil {
		s.Logger.Warn("replica refused", "replica", req.GetHello().GetReplica(), "host", req.GetHello().GetHost(), "error", err)
		return toStatus(err)
	}
	defer session.Close()
	ctx, cancel := s.until(stream.Context())
	defer cancel(nil)
	s.streams.Go(func() {
		for {
			if req.GetHeartbeat() != nil {
				session.Heartbeat(req.GetHeartbeat())
			}
			if req.GetLeaving() {
				session.Leave()
			}
			var err error
			if req, err = stream.Recv(); err != nil {
				cancel(err)
				return
			}
		}
	})
	for {
		resp, err := session.Next(ctx)
		if err == nil {
			err = stream.Send(resp)
		}
		if err != nil {
			return ended(err)
		}
	}
}

// FetchModel sends a model's file.
func (s control) FetchModel(req *coppicev1.FetchModelRequest, stream coppicev1.BalancerService_FetchModelServer) error {
	if !s.Supervisor.Owns(req.GetToken()) {
		return toStatus(supervise.ErrToken)
	}
	for _, m := range s.Models {
		if m.Served.GetSha256() == req.GetSha256() {
			return toStatus(send(m.Path, stream))
		}
	}
	return toStatus(fmt.Errorf("%w: %.64q", errNoModel, req.GetSha256()))
}

func send(path string, stream coppicev1.BalancerService_FetchModelServer) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("model file: %w", err)
	}
	defer f.Close()
	buf := make([]byte, chunkBytes)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			// Send has encoded the message when it returns, so the buffer is free again.
			if err := stream.Send(&coppicev1.FetchModelResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("model file: %w", err)
		}
	}
}

// Scale pins the size of the pool or gives it back.
func (s control) Scale(_ context.Context, req *coppicev1.ScaleRequest) (*coppicev1.ScaleResponse, error) {
	switch target := req.GetTarget().(type) {
	case *coppicev1.ScaleRequest_Replicas:
		if err := s.Scaler.Pin(target.Replicas); err != nil {
			return nil, toStatus(err)
		}
	case *coppicev1.ScaleRequest_Auto:
		if !target.Auto {
			return nil, status.Error(codes.InvalidArgument, "auto is false: expected a number of replicas, or auto as true")
		}
		s.Scaler.Auto()
	default:
		return nil, status.Error(codes.InvalidArgument, "nothing is asked for: expected a number of replicas, or auto")
	}
	return &coppicev1.ScaleResponse{Scale: s.Scaler.Status()}, nil
}

// Drain takes a replica out.
func (s control) Drain(ctx context.Context, req *coppicev1.DrainRequest) (*coppicev1.DrainResponse, error) {
	timeout := req.GetTimeout().AsDuration()
	if timeout < 0 {
		return nil, status.Errorf(codes.InvalidArgument, "timeout is %v, expected a positive duration (or 0 for the default)", timeout)
	}
	abandoned, err := s.Supervisor.Drain(ctx, req.GetReplica(), timeout)
	if err != nil {
		return nil, toStatus(err)
	}
	return &coppicev1.DrainResponse{Abandoned: abandoned}, nil
}

// Status describes the pool.
func (s control) Status(context.Context, *coppicev1.StatusRequest) (*coppicev1.StatusResponse, error) {
	resp := &coppicev1.StatusResponse{
		Scale: s.Scaler.Status(), Version: s.Version, Generation: s.Roster.Generation(),
	}
	versions := make(map[string]string)
	for _, m := range s.Models {
		resp.Models = append(resp.Models, m.Served)
		versions[m.Served.GetSha256()] = m.Served.GetVersion()
	}
	for _, m := range s.Supervisor.Members() {
		r := &coppicev1.ReplicaStatus{
			Id: m.Replica, Pid: m.PID, State: m.State.Proto(), InFlight: m.Heartbeat.GetInFlight(), Queued: m.Heartbeat.GetQueued(),
			Spawned: m.Spawned, Address: m.Address, Host: m.Host, Restarts: m.Restarts, HeartbeatAge: m.HeartbeatAge.Seconds(),
			Incarnation: m.Incarnation,
		}
		for _, hash := range m.Heartbeat.GetModels() {
			if v, ok := versions[hash]; ok {
				r.Versions = append(r.Versions, v)
			}
		}
		stats := s.Tracker.Replica(m.Replica, m.Incarnation)
		r.Rate, r.MetricsAge = stats.Rate, stats.Age.Seconds()
		r.P50, r.P95, r.P99 = quantiles(stats)
		resp.Replicas = append(resp.Replicas, r)
	}
	for _, g := range s.Roster.Gateways() {
		stats := s.Tracker.Gateway(g.ID)
		r := &coppicev1.GatewayStatus{
			Id: g.ID, InFlight: g.Report.GetInFlight(), Queued: g.Report.GetQueued(), Rate: stats.Rate, AcknowledgedGeneration: g.Acknowledged,
		}
		r.P50, r.P95, r.P99 = quantiles(stats)
		resp.Gateways = append(resp.Gateways, r)
	}
	return resp, nil
}

// quantiles gives those of a window in which anything happened.
func quantiles(s track.Stats) (p50, p95, p99 *float64) {
	if s.Count == 0 {
		return nil, nil, nil
	}
	return &s.P50, &s.P95, &s.P99
}

// metrics is the metrics service of OTLP.
type metrics struct {
	colmetricspb.UnimplementedMetricsServiceServer
	*Server
}

// Export takes measurements.
func (s metrics) Export(_ context.Context, req *colmetricspb.ExportMetricsServiceRequest) (*colmetricspb.ExportMetricsServiceResponse, error) {
	rejected, why := s.Tracker.Receive(req.GetResourceMetrics())
	// The page takes what the tracker takes, and more.
	if n, w := s.Page.Receive(req.GetResourceMetrics()); n > 0 {
		rejected, why = n, w
	}
	resp := &colmetricspb.ExportMetricsServiceResponse{}
	if rejected > 0 {
		resp.PartialSuccess = &colmetricspb.ExportMetricsPartialSuccess{RejectedDataPoints: rejected, ErrorMessage: why}
	}
	return resp, nil
}

// traces is the trace service of OTLP.
type traces struct {
	coltracepb.UnimplementedTraceServiceServer
	*Server
}

// Export passes spans on.
func (s traces) Export(_ context.Context, req *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	s.Traces(req)
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

// Serve serves until Shutdown. It blocks.
func (s *Server) Serve(l net.Listener) error {
	return s.grpc.Serve(l)
}

// Shutdown ends all streams and waits for other calls, for as long as ctx allows.
func (s *Server) Shutdown(ctx context.Context) {
	s.health.Shutdown()
	s.close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
	s.streams.Wait()
}
