package eventloop

import (
	"net"
	"testing"
	"time"

	"loopmq/metrics"
	"loopmq/rate"
)

// mustServe checks that a connection is served.
func mustServe(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c := mustDial(t, addr)
	_, _ = c.Write([]byte("in"))
	mustRead(t, c, "in")
	return c
}

func mustBeRefused(t *testing.T, addr string) {
	t.Helper()
	if _, err := mustDial(t, addr).Read(make([]byte, 1)); err == nil {
		t.Fatal("one connection too many was served")
	}
}

// What comes faster than the rate waits, and all of it is served in the end.
func TestAcceptRate(t *testing.T) {
	limit := rate.Limit{PerSecond: 50, Burst: 5}
	for name, start := range map[string]func(t *testing.T) (*Engine, string){
		"engine": func(t *testing.T) (*Engine, string) {
			return mustStart(t, Config{Loops: 2, AcceptRate: limit, Handler: &handler{data: echo}})
		},
		"listener": func(t *testing.T) (*Engine, string) {
			e, _ := mustStart(t, Config{Loops: 2, Handler: &handler{data: echo}})
			addr, err := e.Listen(Listener{Address: "127.0.0.1:0", Admission: Admission{Rate: limit}})
			if err != nil {
				t.Fatal(err)
			}
			return e, addr.String()
		},
		"changed": func(t *testing.T) (*Engine, string) {
			e, addr := mustStart(t, Config{Loops: 2, Handler: &handler{data: echo}})
			e.SetAdmission(Admission{Rate: limit})
			return e, addr
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, addr := start(t)
			begin := time.Now()
			var cs []*net.TCPConn
			for range 30 { // the kernel takes them all
				cs = append(cs, mustDial(t, addr))
			}
			for i, c := range cs {
				_, _ = c.Write([]byte("in"))
				mustRead(t, c, "in")
				if took, least := time.Since(begin), time.Duration(i-5)*20*time.Millisecond; took < least {
					t.Errorf("connection %d is served after %v, want %v at least", i+1, took, least)
				}
			}
			if s := e.Stats(); s.AcceptDelays == 0 || s.Accepted != 30 || s.Refused != [metrics.NumRefuseReasons]uint64{} {
				t.Errorf("got %+v", s)
			}
		})
	}
}

// A listener that is full leaves the others alone.
func TestListenerConnections(t *testing.T) {
	e, other := mustStart(t, Config{Loops: 2, MaxConnections: 4, Handler: &handler{data: echo}})
	bound, err := e.Listen(Listener{Address: "127.0.0.1:0", Context: "small", Admission: Admission{Connections: 2}})
	if err != nil {
		t.Fatal(err)
	}
	addr := bound.String()
	first := mustServe(t, addr)
	mustServe(t, addr)
	for range 3 {
		mustBeRefused(t, addr)
	}
	mustServe(t, other)
	if s := e.Stats(); s.Refused[metrics.RefuseListener] != 3 || s.Refused[metrics.RefuseLimit] != 0 || s.Connections != 3 {
		t.Errorf("got %+v", s)
	}
	_ = first.Close()
	await(t, "a place is free", func() bool { return e.Stats().Connections == 2 })
	mustServe(t, addr)
	mustBeRefused(t, addr)

	e.SetListenerAdmission(func(l *Listener) (a Admission) {
		if l.Context == "small" {
			a.Connections = 10
		}
		return a
	})
	mustServe(t, addr)
	mustBeRefused(t, addr) // four in all, and what the engine refuses doesn't count at the listener
	if s := e.Stats(); s.Refused[metrics.RefuseListener] != 4 || s.Refused[metrics.RefuseLimit] != 1 {
		t.Errorf("got %+v", s)
	}
	e.SetAdmission(Admission{Connections: 5})
	mustServe(t, addr)
	mustBeRefused(t, addr)
}
