package opcuaserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
	"loopmq/store"
)

const (
	// pauseLeast and pauseMost bound the pause before the child is started again; it doubles, until one has lived for calm.
	pauseLeast = 100 * time.Millisecond
	pauseMost  = 30 * time.Second
	calm       = time.Minute
	// silenceMax is after how long without a word the child is ended.
	silenceMax = 30 * time.Second
	// stuckMax is for how long the child may be busy with one request: longer than the broker takes to answer its questions.
	stuckMax = time.Minute
	// farewell is how long the child has to end by itself.
	farewell = 2 * time.Second
	// stderrMax is how much of what the child said last is kept.
	stderrMax = 4096
	// subscribeTimeout bounds the connecting to the broker, and resubscribePause is the pause after a failure.
	subscribeTimeout = 30 * time.Second
	resubscribePause = time.Second
)

// Server is the OPC UA server, as the broker's process sees it: it keeps the last values of topics, and the process that
// serves them. Its methods are safe for concurrent use.
type Server struct {
	opts  Options
	log   *slog.Logger
	setup *Setup
	table *table
	name  string

	silence, stuck time.Duration // silenceMax and stuckMax, but in tests

	ln     *net.TCPListener
	ctx    context.Context
	cancel context.CancelFunc
	all    sync.WaitGroup
	pid    atomic.Int64
}

// New returns a Server that Start starts, or what is wrong with its Options.
func New(o Options) (*Server, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	o.Metrics, o.Logger = cmp.Or(o.Metrics, o.Broker.Metrics()), cmp.Or(o.Logger, slog.Default())
	setup, err := o.setup(o.Logger.Enabled(context.Background(), slog.LevelDebug))
	if err != nil {
		return nil, fmt.Errorf("opcuaserver: %w", err)
	}
	s := &Server{silence: silenceMax, stuck: stuckMax, opts: o, log: o.Logger, setup: setup, table: newTable(o.Topics, o.ValuesBytes, o.ValueBytes), name: loopmq.LocalClientIDs + "opcua-server/" + rand.Text()[:8]}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Start listens at an address, and serves OPC UA clients until Close. The Broker has to be running.
func (s *Server) Start(address string) (net.Addr, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	s.ln = ln.(*net.TCPListener)
	s.opts.Metrics.OPCUAServer.Topics.Store(func() int64 { return int64(s.table.topics()) })
	s.all.Go(s.subscribe)
	s.all.Go(s.supervise)
	return ln.Addr(), nil
}

// Close ends all sessions and the process. It returns when that is done, or ctx ends.
func (s *Server) Close(ctx context.Context) {
	s.cancel()
	if s.ln != nil {
		_ = s.ln.Close()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.all.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// subscribe keeps an MQTT client that gets the messages of the topics.
func (s *Server) subscribe() {
	failed := false
	for s.ctx.Err() == nil {
		err := s.listen()
		if err != nil && s.ctx.Err() == nil && !failed {
			s.log.Error("opcua_server_subscription", "error", err)
		}
		failed = err != nil
		wait(s.ctx, resubscribePause)
	}
}

// listen is one life of that client. An error says why it had none.
func (s *Server) listen() error {
	ctx, cancel := context.WithTimeout(s.ctx, subscribeTimeout)
	defer cancel()
	caller, err := s.opts.Broker.Authenticate(ctx, &loopmq.ConnectRequest{
		ClientID: s.name, Username: s.opts.Username, HasUsername: s.opts.Username != "", Listener: Listener, ProtocolVersion: codec.V5,
	}, &loopmq.Settings{Authenticator: configured{}, Authorizer: s.opts.Authorizer})
	if err != nil {
		return err
	}
	defer caller.Close()
	var client atomic.Pointer[loopmq.LocalClient]
	over := make(chan error, 1)
	lc, err := caller.Connect(ctx, loopmq.LocalOptions{ClientID: s.name, CleanStart: true}, loopmq.LocalHandler{
		OnMessage: func(m *loopmq.MessageView, id loopmq.DeliveryID, _ bool) bool {
			s.take(m)
			if c := client.Load(); c != nil && !id.IsZero() {
				c.Acknowledge(id)
			}
			return true
		},
		OnClosed: func(reason error) { over <- reason },
	})
	if err != nil {
		return err
	}
	client.Store(lc)
	defer lc.End()
	for _, f := range s.opts.Filters {
		reasons, err := lc.Subscribe(ctx, []store.Subscription{{TopicFilter: f, Options: codec.SubscriptionOptions{QoS: 1, RetainAsPublished: true}}})
		if err != nil {
			return fmt.Errorf("subscribe to %s: %w", f, err)
		}
		if reasons[0] >= codec.UnspecifiedError {
			return fmt.Errorf("subscribe to %s: %s", f, reasons[0])
		}
	}
	select {
	case err := <-over:
		if s.ctx.Err() == nil {
			s.log.Warn("opcua_server_disconnected", "error", err)
		}
	case <-s.ctx.Done():
	}
	return nil
}

// take keeps a message as the last value of its topic. It is called on an event loop.
func (s *Server) take(m *loopmq.MessageView) {
	topic := string(m.TopicName)
	if m.Retain && s.table.has(topic, m.Payload) { // it comes again with each subscription
		return
	}
	m2 := &s.opts.Metrics.OPCUAServer
	switch s.table.set(topic, m.Payload, m.Retain, time.Now()) {
	case droppedTopics:
		m2.Dropped[metrics.OPCUAServerTopics].Inc()
	case droppedTopic:
		m2.Dropped[metrics.OPCUAServerTopic].Inc()
	case droppedTooLarge:
		m2.Dropped[metrics.OPCUAServerTooLarge].Inc()
	}
}

// supervise starts the process, again and again.
func (s *Server) supervise() {
	// A child is to die with the thread that started it, so that has to stay.
	runtime.LockOSThread()
	pause := pauseLeast
	for first := true; s.ctx.Err() == nil; first = false {
		began := time.Now()
		ended, err := s.child(first)
		s.count(&Report{})
		if s.ctx.Err() != nil {
			return
		}
		if time.Since(began) > calm {
			pause = pauseLeast
		}
		s.opts.Metrics.OPCUAServer.Ended[ended].Inc()
		s.log.Error("opcua_server_ended", "reason", ended.String(), "error", err, "again_in", pause)
		wait(s.ctx, pause)
		pause = min(2*pause, pauseMost)
	}
}

// child is one life of the process.
func (s *Server) child(first bool) (metrics.OPCUAServerEnd, error) {
	mine, its, err := socketPair()
	if err != nil {
		return metrics.OPCUAServerNotStarted, err
	}
	conn, err := net.FileConn(mine)
	_ = mine.Close()
	defer func() { _ = its.Close() }()
	if err != nil {
		return metrics.OPCUAServerNotStarted, err
	}
	defer func() { _ = conn.Close() }()
	listener, err := s.ln.File()
	if err != nil {
		return metrics.OPCUAServerNotStarted, err
	}
	defer func() { _ = listener.Close() }()
	cmd, err := s.command()
	if err != nil {
		return metrics.OPCUAServerNotStarted, err
	}
	said := &tail{}
	cmd.Stderr, cmd.ExtraFiles = said, []*os.File{its, listener}
	bind(cmd)
	if err := cmd.Start(); err != nil {
		return metrics.OPCUAServerNotStarted, err
	}
	_ = its.Close() // else the link wouldn't end with the child
	s.pid.Store(int64(cmd.Process.Pid))
	level := slog.LevelInfo
	if first {
		level = slog.LevelDebug
	}
	s.log.Log(s.ctx, level, "opcua_server_started", "pid", cmd.Process.Pid)

	ctx, cancel := context.WithCancel(s.ctx)
	l := newLink(ctx, s)
	var helpers sync.WaitGroup
	helpers.Go(func() { s.answer(conn, l) })
	ended := metrics.OPCUAServerExited
	helpers.Go(func() {
		if wrong, ok := s.watch(ctx, l); !ok {
			ended = wrong
			_ = cmd.Process.Kill()
			return
		}
		// The broker stops, or the child has ended.
		_ = conn.Close()
		if !wait(ctx, 0) && s.ctx.Err() != nil {
			time.AfterFunc(farewell, func() { _ = cmd.Process.Kill() })
		}
	})
	err = cmd.Wait()
	cancel()
	_ = conn.Close()
	helpers.Wait()
	l.closeAll()
	s.pid.Store(0)
	if err == nil {
		err = errors.New("it ended by itself")
	}
	if text := said.String(); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return ended, err
}

// command is what the child is started by. It has one processor, so that clients leave the broker the others.
func (s *Server) command() (*exec.Cmd, error) {
	args := s.opts.Command
	if len(args) == 0 {
		own, err := os.Executable()
		if err != nil {
			return nil, err
		}
		args = []string{own, Command}
	}
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec // this program itself
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	return cmd, nil
}

// answer serves the calls of a child until the link ends.
func (s *Server) answer(conn net.Conn, l *link) {
	r := rpc.NewServer()
	if err := r.RegisterName("Link", service{l}); err != nil {
		panic(err) // its methods are as net/rpc wants them
	}
	r.ServeConn(conn)
}

// watch returns what is wrong with a child, as soon as something is. When ctx ends all is well.
func (s *Server) watch(ctx context.Context, l *link) (wrong metrics.OPCUAServerEnd, ok bool) {
	for wait(ctx, min(s.silence, s.stuck)/10) {
		if time.Since(time.Unix(0, l.polled.Load())) > s.silence {
			return metrics.OPCUAServerSilent, false
		}
		// It serves others meanwhile, but one that turns round and round in a request takes the processor from them.
		if time.Duration(l.busy.Load()) > s.stuck {
			return metrics.OPCUAServerStuck, false
		}
	}
	return 0, true
}

// tail keeps the last that was written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// What a panic says first is what matters.
	if room := stderrMax - len(t.text); room > 0 {
		t.text = append(t.text, b[:min(len(b), room)]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}

// wait waits, unless ctx ends.
func wait(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// configured is the Authenticator of who needs no credentials, since the configuration says who it is.
type configured struct{}

// Authenticate accepts.
func (configured) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{Username: r.Username}, nil, nil
}

// Continue is never called: there is no Challenge.
func (configured) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errors.New("opcuaserver: there is no challenge")
}
