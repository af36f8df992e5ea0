package loopmq_test

import (
	"bufio"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/child"
	"loopmq/store/pebble"
)

// eventsDir is the variable that makes a process of this test binary the broker of TestEventsSurviveAKill.
const eventsDir = "LOOPMQ_TEST_EVENTS_DIR"

// TestEventsBroker is that broker: it says where it listens, and serves until it is killed.
func TestEventsBroker(t *testing.T) {
	dir := os.Getenv(eventsDir)
	if dir == "" {
		t.Skip("runs as a child of TestEventsSurviveAKill")
	}
	st, err := pebble.Open(pebble.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store, o.Recorder = st, messages(true, 0) })
	_, _ = fmt.Fprintln(os.Stdout, "listening", s.Addr)
	select {}
}

// No event of a message that was acknowledged is missing after a kill -9, whether something else of the message had to be stored or not.
func TestEventsSurviveAKill(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	var mu sync.Mutex
	acknowledged := make(map[string]bool) // guarded by mu
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestEventsBroker$")
		cmd.Env = append(os.Environ(), eventsDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		p, err := child.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		addr := ""
		for lines := bufio.NewScanner(out); addr == "" && lines.Scan(); {
			addr, _ = strings.CutPrefix(lines.Text(), "listening ")
			if addr == lines.Text() {
				addr = ""
			}
		}
		if addr == "" {
			t.Fatal("the broker has not started")
		}
		brokertest.Connect(t, addr, codec.V5, brokertest.Durable("sub")).Subscribe("durable", 1)
		var wg sync.WaitGroup
		enough := make(chan struct{}, 1)
		target := len(acknowledged) + 200
		for i := range 8 {
			qos, topic := byte(1+i%2), []string{"plain", "durable"}[i/2%2]
			pub := rawConnect(t, addr, fmt.Sprintf("pub%d-%d", round, i))
			wg.Go(func() {
				for n := 0; ; n++ {
					m := codec.Publish{TopicName: []byte(topic), Payload: fmt.Appendf(nil, "%d/%d/%d", round, i, n), QoS: qos, PacketID: 1}
					pub.write(m.Append(nil, codec.V5))
					if pub.read(); pub.err != nil {
						return
					}
					mu.Lock()
					if acknowledged[string(m.Payload)] = true; len(acknowledged) == target {
						enough <- struct{}{}
					}
					mu.Unlock()
					if qos == 2 {
						pub.write(codec.AppendAck(nil, codec.TypePubrel, 1))
						if pub.read(); pub.err != nil {
							return
						}
					}
				}
			})
		}
		receive(t, "acknowledgements", enough)
		<-time.After(time.Duration(random.IntN(20)) * time.Millisecond) // anywhere in a commit
		p.Kill()
		wg.Wait()
	}
	st, err := pebble.Open(pebble.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	had := make(map[string]bool)
	for {
		taken, err := st.Outbox().Take(t.Context(), endpoint, "test", 1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(taken) == 0 {
			break
		}
		for _, e := range taken {
			if had[string(e.Data)] {
				t.Errorf("%s comes twice", e.Data)
			}
			had[string(e.Data)] = true
		}
	}
	for m := range acknowledged {
		if !had[m] {
			t.Errorf("%s was acknowledged, and has no event", m)
		}
	}
	t.Logf("%d messages were acknowledged, %d events are stored", len(acknowledged), len(had))
}
