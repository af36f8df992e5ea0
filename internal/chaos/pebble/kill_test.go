// Package pebble_test kills a broker with an embedded store again and again.
package pebble_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/chaos"
)

// rounds is how often the broker is killed: CHAOS_ROUNDS, or a few times.
func rounds(t *testing.T) int {
	text := os.Getenv("CHAOS_ROUNDS")
	if text == "" {
		return 10
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// broker is the program, started again and again on one directory.
type broker struct {
	path, dir string
	addr      atomic.Value // string: where the last one listens
	http      atomic.Value // string: where it answers HTTP
	cmd       *exec.Cmd
}

// start starts the program. listening is closed when it says where it listens,
// or has ended.
func (b *broker) start(t *testing.T) (listening chan struct{}) {
	b.cmd = exec.Command(b.path, "serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "127.0.0.1:0", "--coap", "off", "--admin", "off", "--log-format", "json", "--store", "pebble:"+b.dir)
	log, err := b.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening = make(chan struct{})
	go func() {
		var once sync.Once
		defer once.Do(func() { close(listening) })
		for lines := bufio.NewScanner(log); lines.Scan(); {
			var line struct{ Level, Msg, TCP, HTTP string }
			if json.Unmarshal(lines.Bytes(), &line) != nil || line.Level == "ERROR" {
				fmt.Fprintln(os.Stderr, lines.Text())
			}
			if line.Msg == "listening" {
				b.addr.Store(line.TCP)
				b.http.Store(line.HTTP)
				once.Do(func() { close(listening) })
			}
		}
	}()
	return listening
}

// TestKill kills a broker at random moments, also while it starts, and lets
// publishers, durable subscribers of QoS 1 and 2, 3.1.1 and 5.0, and streams of
// server-sent events connect again
// each time. Afterwards each acknowledged message has reached each subscriber, at
// QoS 2 once, and in order.
func TestKill(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	b := &broker{path: filepath.Join(t.TempDir(), "loopmq"), dir: filepath.Join(t.TempDir(), "data")}
	build := exec.Command("go", "build", "-o", b.path, "./cmd/loopmq")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	<-b.start(t)
	if b.addr.Load() == nil {
		t.Fatal("the broker does not start")
	}

	var (
		ledger               chaos.Ledger
		publishing, gone     sync.WaitGroup
		stop                 = make(chan struct{})
		receiving, unplugged = context.WithCancel(ctx)
		subscribed           sync.WaitGroup
	)
	defer unplugged()
	client := func(name string, i int) chaos.Client {
		return chaos.Client{
			ClientID: name + strconv.Itoa(i), Addr: func() string { return b.addr.Load().(string) },
			Version: []codec.Version{codec.V311, codec.V5}[i/2%2], Ledger: &ledger, SessionExpiryInterval: chaos.Never,
		}
	}
	for i := range 4 {
		s := &chaos.Subscriber{Client: client("subscriber", i), TopicFilter: "chaos/#", QoS: 2, OnSubscribed: subscribed.Done}
		subscribed.Add(1)
		gone.Go(func() {
			if err := s.Run(receiving); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 2 {
		s := &chaos.Stream{
			URL: func() string { return "http://" + b.http.Load().(string) }, Session: fmt.Sprint("stream", i), TopicFilter: "chaos/#",
			Ledger: &ledger, OnSubscribed: subscribed.Done,
		}
		subscribed.Add(1)
		gone.Go(func() { s.Run(receiving) })
	}
	subscribed.Wait()
	for i := range 4 {
		p := &chaos.Publisher{Client: client("publisher", i), TopicName: fmt.Sprint("chaos/", i), QoS: byte(1 + i%2), Window: 8}
		publishing.Go(func() {
			if err := p.Run(ctx, stop); err != nil {
				t.Error(err)
			}
		})
	}

	n := rounds(t)
	for range n {
		<-time.After(time.Duration(rng.IntN(200)) * time.Millisecond) // at any moment, whatever goes on
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		listening := b.start(t)
		if rng.IntN(5) > 0 {
			<-listening
		}
	}
	close(stop)
	publishing.Wait()
	arrive, end := context.WithTimeout(ctx, time.Minute)
	defer end()
	for r := ledger.Check(); len(r.Lost) > 0 && arrive.Err() == nil; r = ledger.Check() { // on their way
		select {
		case <-time.After(50 * time.Millisecond):
		case <-arrive.Done():
		}
	}
	unplugged()
	gone.Wait()
	r := ledger.Check()
	t.Logf("%d kills: %s", n, r.String())
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Wait(); err != nil {
		t.Errorf("the broker's end: %v", err)
	}
}
