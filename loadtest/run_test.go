//go:build linux

package loadtest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/internal/brokertest"
	"loopmq/loadtest"
)

// play runs a scenario for a short time, and fails if there is an error.
func play(t *testing.T, s *loadtest.Scenario, o loadtest.Options) *loadtest.Result {
	t.Helper()
	if s.Duration == 0 {
		s.Duration = 50 * time.Millisecond
	}
	if s.Drain == 0 {
		s.Drain = 20 * time.Second // a slow machine isn't a broken promise
	}
	o.Logger = slog.New(slog.DiscardHandler)
	r, err := loadtest.Run(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// enough runs a scenario longer and longer until it shows something, or clearly doesn't: on a busy machine nothing may happen for a while.
func enough(t *testing.T, s loadtest.Scenario, o loadtest.Options, shows func(*loadtest.Result) bool) *loadtest.Result {
	t.Helper()
	for d := 50 * time.Millisecond; ; d *= 8 {
		longer := s.Clone()
		longer.Duration = d
		r := play(t, longer, o)
		clean(t, r)
		if shows(r) || d > 10*time.Second || t.Failed() {
			return r
		}
	}
}

// clean fails unless all that is known of is in order.
func clean(t *testing.T, r *loadtest.Result) {
	t.Helper()
	if r.Broken() || !r.Audit.Promised().Clean() || !r.Audit.MayDrop().Clean() {
		t.Errorf("audit: %+v", r.Audit)
	}
	if len(r.Errors) > 0 {
		t.Errorf("errors: %v", r.Errors)
	}
}

// TestShapes runs each shape at each QoS and version against the broker.
func TestShapes(t *testing.T) {
	t.Parallel()
	broker := brokertest.Start(t)
	for _, s := range []loadtest.Scenario{
		{Shape: loadtest.P2P, Pairs: 6},
		{Shape: loadtest.P2P, Pairs: 6, Rate: 2000, Payload: 16, RampUp: 20 * time.Millisecond, WarmUp: 20 * time.Millisecond},
		{Shape: loadtest.P2P, Pairs: 3, Durable: true, DurablePublishers: true, Filters: 150},
		{Shape: loadtest.FanIn, Publishers: 5, Subscribers: 2, Window: 3},
		{Shape: loadtest.FanOut, Publishers: 2, Subscribers: 5, Window: 3},
		{Shape: loadtest.Shared, Publishers: 5, Subscribers: 4, Groups: 2, Window: 3},
	} {
		for qos := range byte(3) {
			version := 3 + (qos+byte(s.Pairs))%3
			s := s
			s.QoS, s.Version, s.Targets = qos, version, []string{"tcp://" + broker.Addr}
			t.Run(fmt.Sprintf("%s/qos=%d/version=%d/rate=%v", s.Shape, qos, version, s.Rate), func(t *testing.T) {
				t.Parallel()
				r := enough(t, s, loadtest.Options{Loops: 1 + int(qos)%2}, func(r *loadtest.Result) bool {
					return r.Totals.Delivered > 0 && (qos == 0 || r.Totals.Acknowledged > 0)
				})
				// QoS 0 isn't promised, but nothing lost it here either.
				audited := r.Audit.QoS[qos].Promised.Expected + r.Audit.QoS[qos].MayDrop.Expected
				if r.Totals.Delivered == 0 || audited < r.Totals.Delivered || qos > 0 && r.Audit.QoS[qos].MayDrop.Expected > 0 {
					t.Errorf("%d delivered, audit %+v", r.Totals.Delivered, r.Audit.QoS[qos])
				}
				if r.Totals.Sent == 0 || qos > 0 && r.Totals.Acknowledged == 0 {
					t.Errorf("totals %+v", r.Totals)
				}
				for name, there := range map[string]bool{
					loadtest.Deliver: true, loadtest.Connect: true, loadtest.PublishAck: qos > 0, loadtest.SendDelay: s.Rate > 0,
				} {
					if l := r.Latencies[name]; (l != nil) != there || there && (l.Count == 0 || l.P50 > l.P99 || l.P99 > l.Max) {
						t.Errorf("latency %s: %+v", name, l)
					}
				}
				if r.Cost.MicrosPerMessage <= 0 || r.Cost.CallsPerMessage <= 0 || r.Seconds < 0.05 {
					t.Errorf("cost %+v of %v s", r.Cost, r.Seconds)
				}
			})
		}
	}
}

// TestCycles runs the shapes that have no messages, and those that have them later.
func TestCycles(t *testing.T) {
	t.Parallel()
	broker := brokertest.Start(t)
	for _, test := range []struct {
		scenario loadtest.Scenario
		what     func(*loadtest.Result) bool
	}{
		{loadtest.Scenario{Shape: loadtest.Idle, Connections: 10, Filters: 2, ConnectRate: 1000}, func(r *loadtest.Result) bool {
			return r.Totals.Connects == 10 && r.Rates.Connects > 0 && r.Cost.CallsPerMessage > 0
		}},
		{loadtest.Scenario{Shape: loadtest.Connects, Connections: 5}, func(r *loadtest.Result) bool {
			return r.Totals.Connects > 5 && r.Totals.Disconnects > 0
		}},
		{loadtest.Scenario{Shape: loadtest.Connects, Connections: 5, ConnectRate: 400, Version: 5}, func(r *loadtest.Result) bool {
			return r.Totals.Connects > 0 && float64(r.Totals.Connects) < 800*r.Seconds+20
		}},
		{loadtest.Scenario{Shape: loadtest.Takeover, Connections: 3}, func(r *loadtest.Result) bool { return r.Totals.Connects > 3 }},
		{loadtest.Scenario{Shape: loadtest.Takeover, Connections: 3, ConnectRate: 200, Version: 5}, func(r *loadtest.Result) bool { return r.Totals.Connects > 3 }},
		{loadtest.Scenario{Shape: loadtest.Retained, Topics: 70, Subscribers: 3, Publishers: 2, QoS: 1}, func(r *loadtest.Result) bool {
			a := r.Audit.QoS[1].Promised.Expected
			return r.Totals.Retained > 0 && a >= 70*r.Totals.Retained && a%70 == 0 && r.Latencies[loadtest.RetainedReply].Count > 0
		}},
		{loadtest.Scenario{Shape: loadtest.Retained, Topics: 5, Subscribers: 1, Version: 5}, func(r *loadtest.Result) bool {
			return r.Totals.Retained > 0 && r.Audit.QoS[0].MayDrop.Expected > 0
		}},
		{loadtest.Scenario{Shape: loadtest.Offline, Pairs: 4, QoS: 1, Rate: 500}, func(r *loadtest.Result) bool {
			return r.Totals.Delivered == r.Totals.Sent && r.Totals.Sent > 10 && r.Audit.QoS[1].Promised.Expected == r.Totals.Sent && r.Rates.Delivered > 0
		}},
		{loadtest.Scenario{Shape: loadtest.Offline, Pairs: 4, QoS: 2, Version: 5, Rate: 500}, func(r *loadtest.Result) bool {
			return r.Totals.Delivered == r.Totals.Sent && r.Totals.Reconnects == 0
		}},
		{loadtest.Scenario{Shape: loadtest.Mixed, Parts: []*loadtest.Scenario{
			{Shape: loadtest.P2P, Pairs: 2, QoS: 1, Version: 5},
			{Shape: loadtest.FanIn, Publishers: 2, Subscribers: 1, Rate: 100},
			{Shape: loadtest.Idle, Connections: 2, Durable: true},
			{Shape: loadtest.Connects, Connections: 2, ConnectRate: 100},
		}}, func(r *loadtest.Result) bool {
			return r.Audit.QoS[1].Promised.Expected > 0 && r.Audit.QoS[0].MayDrop.Expected > 5 && r.Totals.Connects > 0
		}},
	} {
		s := test.scenario
		s.Targets = []string{"tcp://" + broker.Addr}
		t.Run(fmt.Sprintf("%s/version=%d/rate=%v", s.Shape, s.Version, s.ConnectRate), func(t *testing.T) {
			t.Parallel()
			r := enough(t, s, loadtest.Options{Loops: 2}, test.what)
			if !test.what(r) {
				t.Errorf("totals %+v, rates %+v, cost %+v, audit %+v", r.Totals, r.Rates, r.Cost, r.Audit)
			}
		})
	}
	t.Cleanup(func() {
		// Nothing stays behind.
		retained := 0
		if err := brokerRetained(broker, &retained); err != nil || retained > 0 {
			t.Errorf("%d retained messages are left, %v", retained, err)
		}
	})
}

// TestTransports carries large and small messages by TLS and WebSocket.
func TestTransports(t *testing.T) {
	t.Parallel()
	files := newCertificate(t)
	broker := brokertest.Start(t)
	config := &tls.Config{Certificates: []tls.Certificate{files.pair}}
	listen := func(l loopmq.Listener) string {
		l.Address = "127.0.0.1:0"
		addr, err := broker.Broker.Listen(l)
		if err != nil {
			t.Fatal(err)
		}
		return addr.String()
	}
	overTLS := listen(loopmq.Listener{TLS: config})
	ws := listen(loopmq.Listener{WebSocket: &loopmq.WebSocket{}})
	wss := listen(loopmq.Listener{TLS: config, WebSocket: &loopmq.WebSocket{}})
	for _, target := range []string{"tls://" + overTLS, "ws://" + ws, "wss://" + wss} {
		for _, payload := range []int{64, 70_000} {
			t.Run(fmt.Sprintf("%.3s/payload=%d", target, payload), func(t *testing.T) {
				t.Parallel()
				s := &loadtest.Scenario{Shape: loadtest.P2P, Pairs: 3, QoS: 1, Window: 4, Payload: payload, Targets: []string{target}, Version: 5}
				s.TLS.CAFile = files.cert
				clean(t, play(t, s, loadtest.Options{}))
			})
		}
	}
	t.Run("unknown authority", func(t *testing.T) {
		t.Parallel()
		s := &loadtest.Scenario{Shape: loadtest.P2P, Pairs: 1, Targets: []string{"tls://" + overTLS}}
		if _, err := loadtest.Run(t.Context(), s, loadtest.Options{}); !errors.Is(err, loadtest.ErrConnect) || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("got %v", err)
		}
		s.TLS.Insecure = true
		clean(t, play(t, s, loadtest.Options{}))
	})
	t.Run("no WebSocket", func(t *testing.T) {
		t.Parallel()
		s := &loadtest.Scenario{Shape: loadtest.P2P, Pairs: 1, Targets: []string{"ws://" + broker.Addr}}
		if _, err := loadtest.Run(t.Context(), s, loadtest.Options{}); !errors.Is(err, loadtest.ErrConnect) {
			t.Errorf("got %v", err)
		}
	})
	for name, f := range map[string]func(*loadtest.TLS){
		"no authorities":      func(c *loadtest.TLS) { c.CAFile = filepath.Join(t.TempDir(), "none") },
		"empty authorities":   func(c *loadtest.TLS) { c.CAFile = os.DevNull },
		"missing private key": func(c *loadtest.TLS) { c.CertFile, c.KeyFile = files.cert, os.DevNull },
	} {
		s := &loadtest.Scenario{Shape: loadtest.P2P, Pairs: 1, Targets: []string{"tls://" + overTLS}}
		f(&s.TLS)
		if _, err := loadtest.Run(t.Context(), s, loadtest.Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestInterrupt ends a run that would take an hour.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	broker := brokertest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := &loadtest.Scenario{Shape: loadtest.P2P, Pairs: 5, QoS: 1, Duration: time.Hour, Targets: []string{"tcp://" + broker.Addr}}
	seconds := 0
	r, err := loadtest.Run(ctx, s, loadtest.Options{Progress: func(s loadtest.Second) {
		if s.Phase == "measure" {
			seconds++
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	clean(t, r)
	if !r.Interrupted || r.Totals.Delivered == 0 || r.Seconds > 3000 || r.Audit.QoS[1].Promised.Expected == 0 || seconds == 0 || len(r.Timeline) < seconds {
		t.Errorf("interrupted %v after %v s, %+v, %d seconds", r.Interrupted, r.Seconds, r.Totals, len(r.Timeline))
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if r, err := loadtest.Run(ctx, s, loadtest.Options{}); err != nil || !r.Interrupted || r.Totals.Sent > 0 && r.Broken() {
		t.Errorf("interrupted before it began: got %+v, %v", r, err)
	}
}

// TestOptions are told what goes on.
func TestOptions(t *testing.T) {
	t.Parallel()
	broker := brokertest.Start(t)
	started, looks := 0, 0
	s := &loadtest.Scenario{Shape: loadtest.P2P, Pairs: 2, Targets: []string{"tcp://" + broker.Addr}, Kill: []loadtest.Kill{{Command: "echo no; exit 3"}}}
	o := loadtest.Options{
		Started: func(context.Context) (time.Time, error) {
			started++
			return time.Now().Add(20 * time.Millisecond), nil
		},
		Broker: func(context.Context) (loadtest.BrokerSample, error) {
			looks++
			return loadtest.BrokerSample{CPUSeconds: float64(looks), ResidentBytes: uint64(looks)}, nil
		},
	}
	r := play(t, s, o)
	if started != 1 || r.Broker == nil || r.Broker.CPUSeconds < 1 || r.Cost.BrokerMicrosPerMessage <= 0 || r.Broker.ResidentBytesMax < 2 {
		t.Errorf("started %d, broker %+v, cost %+v", started, r.Broker, r.Cost)
	}
	if len(r.Errors) != 1 || r.Errors[0].What != "a kill command failed" || !strings.Contains(r.Errors[0].Example, "no") {
		t.Errorf("errors: %v", r.Errors)
	}
	waited := false
	for _, p := range r.Phases {
		waited = waited || p.Name == "wait"
	}
	if !waited {
		t.Errorf("phases: %v", r.Phases)
	}

	refuse := errors.New("not today")
	o.Started = func(context.Context) (time.Time, error) { return time.Time{}, refuse }
	o.Broker = func(context.Context) (loadtest.BrokerSample, error) { return loadtest.BrokerSample{}, refuse }
	if _, err := loadtest.Run(t.Context(), s, o); !errors.Is(err, refuse) {
		t.Errorf("got %v, want %v", err, refuse)
	}
	o.Started = nil
	s.Kill = nil
	if r := play(t, s, o); len(r.Errors) != 1 || r.Errors[0].What != "a look at the broker failed" {
		t.Errorf("errors: %v", r.Errors)
	}
	sample, err := loadtest.ProcessSampler(os.Getpid())(t.Context())
	if err != nil || sample.CPUSeconds <= 0 || sample.ResidentBytes == 0 || sample.At.IsZero() {
		t.Errorf("this process: %+v, %v", sample, err)
	}
	if _, err := loadtest.ProcessSampler(1 << 30)(t.Context()); err == nil {
		t.Error("a process that isn't there has used something")
	}
}

// TestProcessesTogether splits scenarios over two runs and puts their results together.
func TestProcessesTogether(t *testing.T) {
	t.Parallel()
	broker := brokertest.Start(t)
	for _, s := range []loadtest.Scenario{
		{Shape: loadtest.P2P, Pairs: 5, QoS: 1},
		{Shape: loadtest.FanOut, Publishers: 3, Subscribers: 5, QoS: 1, Rate: 300},
		{Shape: loadtest.FanIn, Publishers: 5, Subscribers: 2, QoS: 2, Window: 2},
		{Shape: loadtest.Shared, Publishers: 5, Subscribers: 6, Groups: 3, QoS: 1, Rate: 300},
	} {
		t.Run(string(s.Shape), func(t *testing.T) {
			t.Parallel()
			s.Targets, s.Duration, s.Drain = []string{"tcp://" + broker.Addr}, 100*time.Millisecond, 20*time.Second
			ready := make(chan struct{}, 2)
			begin := make(chan struct{})
			results, errs := make(chan *loadtest.Result, 2), make(chan error, 2)
			for _, part := range s.Split(2, strings.ReplaceAll(string(s.Shape), "-", "")) {
				go func() {
					r, err := loadtest.Run(t.Context(), part, loadtest.Options{Started: func(context.Context) (time.Time, error) {
						ready <- struct{}{}
						<-begin
						return time.Time{}, nil
					}})
					results <- r
					errs <- err
				}()
			}
			<-ready
			<-ready
			close(begin)
			a, b := <-results, <-results
			if err := errors.Join(<-errs, <-errs); err != nil {
				t.Fatal(err)
			}
			r, err := loadtest.Merge(a, b)
			if err != nil {
				t.Fatal(err)
			}
			clean(t, r)
			per := map[loadtest.Shape]uint64{loadtest.P2P: 1, loadtest.FanOut: 5, loadtest.FanIn: 2, loadtest.Shared: 3}[s.Shape]
			if got := r.Audit.QoS[s.QoS].Promised.Expected; got == 0 || got%per != 0 || got < r.Totals.Sent*per || r.Processes != 2 || r.Ledger != nil {
				t.Errorf("%d promised of %d sent, %+v", got, r.Totals.Sent, r.Audit)
			}
		})
	}
}

// TestUnusable are scenarios that can't be run.
func TestUnusable(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]*loadtest.Scenario{
		"no target":          {Shape: loadtest.Idle, Connections: 1},
		"connection refused": {Shape: loadtest.Idle, Connections: 1, Targets: []string{"tcp://127.0.0.1:1"}},
		"open files":         {Shape: loadtest.Idle, Connections: 9_000_000, Targets: []string{"tcp://127.0.0.1:1"}},
		"source address":     {Shape: loadtest.Idle, Connections: 1, Targets: []string{"tcp://127.0.0.1:1"}, Sources: []string{"::1"}},
	} {
		if _, err := loadtest.Run(t.Context(), s, loadtest.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something about %q", err, want)
		}
	}
}
