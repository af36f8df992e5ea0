package loadtest_test

import (
	"errors"
	"net"
	"testing"

	"loopmq/loadtest"
)

// TestSilentBroker: connections that nobody answers aren't clients, and a run without clients isn't ok because nothing was promised.
func TestSilentBroker(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel connects, and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := &loadtest.Scenario{Shape: loadtest.P2P, Pairs: 3, QoS: 1, Targets: []string{"tcp://" + listener.Addr().String()}}
	if r, err := loadtest.Run(t.Context(), s, loadtest.Options{}); !errors.Is(err, loadtest.ErrConnect) {
		t.Errorf("got %+v, %v, want ErrConnect", r, err)
	}
}
