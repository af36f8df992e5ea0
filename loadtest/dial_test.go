//go:build linux

package loadtest

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// listening returns what connects to a listener, as resolve makes it, and a function that accepts and says where from.
func listening(t *testing.T, s *Scenario, connections int) (p *endpoint, from func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s.Targets = []string{"tcp://" + l.Addr().String()}
	sets, err := resolve(t.Context(), s, connections, 1)
	if err != nil {
		t.Fatal(err)
	}
	p = &sets[0][0]
	return p, func() string {
		t.Helper()
		fd, err := p.open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
		return host
	}
}

// TestSources: connections are spread over addresses, and those that have no port left are passed over. 203.0.113.77 belongs to no machine,
// and the kernel says the same of it as of an address without ports.
func TestSources(t *testing.T) {
	t.Parallel()
	_, from := listening(t, &Scenario{Sources: []string{"127.0.0.2", "203.0.113.77", "127.0.0.3"}}, 4)
	counts := map[string]int{}
	for range 9 {
		counts[from()]++
	}
	if counts["127.0.0.2"] == 0 || counts["127.0.0.3"] == 0 || len(counts) != 2 {
		t.Errorf("connected from %v", counts)
	}
}

func TestSourcesOut(t *testing.T) {
	t.Parallel()
	p, _ := listening(t, &Scenario{Sources: []string{"203.0.113.77", "203.0.113.78"}}, 1)
	if fd, err := p.open(); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("got %d, %v, want EADDRNOTAVAIL", fd, err)
	}
}

// TestLoopbackSources: on loopback there are as many addresses as connections need, of all processes that take part.
func TestLoopbackSources(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		connections, processes, want int
		shape                        Shape
	}{
		{1000, 1, 0, Idle}, {10_001, 1, 2, Idle}, {15_000, 4, 6, Idle}, {10, 1, 8, Connects}, {10_000_000, 1, loopbackSources, Idle},
	} {
		p, from := listening(t, &Scenario{Shape: test.shape, Share: Share{Of: test.processes}}, test.connections)
		if len(p.sources) != test.want {
			t.Errorf("%d connections in %d processes: %d addresses, want %d", test.connections, test.processes, len(p.sources), test.want)
		}
		first, second := from(), from()
		if (first != second) != (test.want > 1) {
			t.Errorf("with %d addresses connections come from %s and %s", test.want, first, second)
		}
	}
	// Where the kernel has chosen, and has no port left, all are tried.
	p, from := listening(t, &Scenario{Shape: Idle}, 1)
	p.sources = []unix.Sockaddr{&unix.SockaddrInet4{Addr: [4]byte{203, 0, 113, 77}}}
	if _, err := p.open(); err == nil {
		t.Error("connected from 203.0.113.77")
	}
	p.sources = nil
	if got := from(); got != "127.0.0.1" {
		t.Errorf("connected from %s", got)
	}
}
