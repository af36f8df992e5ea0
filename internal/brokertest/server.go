package brokertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/store"
	"loopmq/store/memory"
)

// AddrVariable names the environment variable with the address of a broker to test instead of one in this process.
const AddrVariable = "LOOPMQ_TEST_ADDR"

// EngineVariable names the environment variable with the engine that brokers run on, as in loopmq.Options.Engine.
const EngineVariable = "LOOPMQ_TEST_ENGINE"

// Server is a broker that listens on a loopback port.
type Server struct {
	// Broker is nil if the server is an outside one (see [AddrVariable]).
	Broker *loopmq.Broker
	// Addr is what to dial.
	Addr string

	store store.Store // the one to close, nil if the options brought theirs
}

// Outside reports whether [Start] and [Run] give out the broker that [AddrVariable] names.
func Outside() bool { return os.Getenv(AddrVariable) != "" }

// Start runs a broker with the given changes to the options: store/memory, no log and no $SYS topics unless they say otherwise. When the
// test ends, it is shut down, and the test fails if that takes long or leaves connections or goroutines behind. With options, a test is
// skipped if an outside broker is tested.
func Start(t testing.TB, options ...func(*loopmq.Options)) *Server {
	t.Helper()
	if len(options) > 0 && Outside() {
		t.Skipf("needs a broker with options of its own, and %s is set", AddrVariable)
	}
	s, err := Run(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Run starts a broker as [Start] does, for a TestMain: the caller has to call [Server.Close].
func Run(options ...func(*loopmq.Options)) (*Server, error) {
	if Outside() {
		return &Server{Addr: os.Getenv(AddrVariable)}, nil
	}
	o := loopmq.Options{Logger: slog.New(slog.DiscardHandler), SysInterval: -1}
	o.Engine = os.Getenv(EngineVariable)
	for _, f := range options {
		f(&o)
	}
	s := &Server{}
	if o.Store == nil {
		s.store = memory.New(memory.Options{})
		o.Store = s.store
	}
	running.add(1)
	if err := s.start(o); err != nil {
		return nil, errors.Join(fmt.Errorf("start a broker: %w", err), s.Close())
	}
	return s, nil
}

func (s *Server) start(o loopmq.Options) error {
	b, err := loopmq.New(o)
	if err != nil {
		return err
	}
	s.Broker = b
	if err := b.Start(); err != nil {
		return err
	}
	addr, err := b.Listen(loopmq.Listener{Address: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	s.Addr = addr.String()
	return nil
}

// Close shuts the broker down and returns what went wrong with that: clients that are still connected, or, if no other Server of this
// process is running and the store isn't the options', goroutines that are. It does nothing to an outside broker.
func (s *Server) Close() error {
	if s.Broker == nil && s.store == nil {
		return nil
	}
	var err error
	if s.Broker != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*Timeout)
		defer cancel()
		if err = s.Broker.Shutdown(ctx); err != nil {
			err = fmt.Errorf("shut the broker down: %w", err)
		}
		if n := s.Broker.Health().Connections; n != 0 {
			err = errors.Join(err, fmt.Errorf("%d clients are connected after the shutdown", n))
		}
	}
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	theirs := s.store == nil // the store may be open still
	s.Broker, s.store = nil, nil
	if running.add(-1) == 0 && err == nil && !theirs {
		err = leaked()
	}
	return err
}

// running counts the Servers of this process, so that the last one can look for goroutines that are left.
var running counter

type counter struct {
	mu sync.Mutex
	n  int // guarded by mu
}

func (c *counter) add(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	return c.n
}

// ours are the beginnings of the functions' names that no goroutine may be in when no broker is running.
var ours = []string{"loopmq.", "loopmq/eventloop.", "loopmq/session.", "loopmq/store/", "github.com/panjf2000/gnet/v2"}

// leakTimeout is how long goroutines that were told to end may take.
var leakTimeout = Timeout

// leaked returns an error with the stacks of the goroutines that a broker left running.
func leaked() error {
	deadline := time.Now().Add(leakTimeout)
	for {
		left := stacks()
		if len(left) == 0 || running.add(0) > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d goroutines are left:\n\n%s", len(left), strings.Join(left, "\n\n"))
		}
		<-time.After(time.Millisecond)
	}
}

// stacks returns the stacks of the goroutines that are in one of our functions.
func stacks() (left []string) {
	b := make([]byte, 1<<20)
	b = b[:runtime.Stack(b, true)]
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		for line := range strings.SplitSeq(stack, "\n") {
			if hasAnyPrefix(line, ours) {
				left = append(left, stack)
				break
			}
		}
	}
	return left
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
