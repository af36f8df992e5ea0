// Package webhooks_test kills brokers that deliver events to a receiver that fails, again and again.
package webhooks_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loopmq/codec"
	"loopmq/internal/chaos"
	"loopmq/internal/child"
	"loopmq/internal/redistest"
)

// total is how many messages are acknowledged before the end: CHAOS_EVENTS, or some.
func total(t *testing.T) int {
	text := os.Getenv("CHAOS_EVENTS")
	if text == "" {
		return 2000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const (
	publishers = 8
	window     = 16
	// batched and ordered are the endpoints: one gets batches, the other each topic's events in order.
	batched, ordered = "batched", "ordered"
)

// config of a broker: the receiver's URL, and the file of the secret.
const config = `
webhooks:
  - name: ordered
    url: %[1]s/ordered
    secret_files: [%[2]s]
    events: [message.published]
    topic_filters: [chaos/#]
    payload: text
    order: topic
    concurrency: 8
    durability: outbox
    timeout: 2s
    retry_min: 20ms
    retry_max: 500ms
    breaker_delay: 500ms
    allow: [127.0.0.1/32]
  - name: batched
    url: %[1]s/batched
    secret_files: [%[2]s]
    events: [message.published]
    topic_filters: [chaos/#]
    payload: text
    batch: {count: 20, wait: 20ms}
    durability: outbox
    timeout: 2s
    retry_min: 20ms
    retry_max: 500ms
    breaker_delay: 500ms
    allow: [127.0.0.1/32]
`

// receiver takes what is signed, and fails one request in five.
type receiver struct {
	*testing.T
	*httptest.Server
	ledger           *chaos.Ledger
	secret           []byte
	requests, failed atomic.Int64
	verified         atomic.Int64
}

func mustReceive(t *testing.T, ledger *chaos.Ledger, secret []byte) *receiver {
	rc := &receiver{T: t, ledger: ledger, secret: secret}
	rc.Server = httptest.NewServer(rc)
	t.Cleanup(func() { rc.CloseClientConnections(); rc.Close() })
	return rc
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rc.requests.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // The broker was killed.
	}
	if err := rc.verify(r.Header, body); err != nil {
		rc.Errorf("%s: %v", r.URL, err)
	}
	if rand.N(5) == 0 {
		rc.failed.Add(1)
		rc.fail(w, r)
		return
	}
	endpoint := r.URL.Path[1:]
	if endpoint == ordered {
		body = fmt.Appendf(nil, "[%s]", body)
	}
	var events []struct{ Subject, Data string }
	if err := json.Unmarshal(body, &events); err != nil {
		rc.Errorf("%s: %v", body, err)
	}
	for _, e := range events {
		publisher, number, _ := strings.Cut(e.Data, " ")
		seq, err := strconv.Atoi(number)
		if err != nil || e.Subject != "chaos/"+publisher {
			rc.Errorf("%+v", e)
		}
		rc.ledger.Received(endpoint, publisher, seq)
	}
	w.WriteHeader(http.StatusNoContent)
}

// verify is what Standard Webhooks has a receiver do.
func (rc *receiver) verify(h http.Header, body []byte) error {
	mac := hmac.New(sha256.New, rc.secret)
	fmt.Fprintf(mac, "%s.%s.%s", h.Get("webhook-id"), h.Get("webhook-timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); h.Get("webhook-signature") != want {
		return fmt.Errorf("the signature is %q, want %q", h.Get("webhook-signature"), want)
	}
	if at, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64); err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		return fmt.Errorf("the timestamp is %q", h.Get("webhook-timestamp"))
	}
	rc.verified.Add(1)
	return nil
}

func (rc *receiver) fail(w http.ResponseWriter, r *http.Request) {
	switch rand.N(6) {
	case 0:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
	case 1:
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	case 2:
		if rand.N(20) == 0 { // longer than the broker waits
			<-r.Context().Done()
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// node is a broker that is started again whenever it has ended.
type node struct {
	*testing.T
	path, config, store, mqtt string
	process                   atomic.Pointer[child.Process]
}

func (n *node) run(stop <-chan struct{}) {
	for {
		log, err := os.OpenFile(n.config+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			n.Error(err)
			return
		}
		cmd := exec.Command(n.path, "serve", "--config", n.config, "--tcp", n.mqtt, "--ws", "off", "--http", "off", "--coap", "off", "--admin", "off",
			"--log-format", "json", "--store", n.store)
		cmd.Stderr, cmd.Dir = log, filepath.Dir(n.config)
		p, err := child.Start(cmd)
		_ = log.Close()
		if err != nil {
			n.Error(err)
			return
		}
		n.process.Store(p)
		select {
		case <-stop:
			p.Kill()
			return
		case <-p.Ended:
		}
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond): // or it would be started without end if it couldn't
		}
	}
}

// TestPebble kills a broker with an embedded store.
func TestPebble(t *testing.T) {
	t.Parallel()
	n := total(t)
	kill(t, 1, n, "pebble:"+filepath.Join(t.TempDir(), "data"), time.Second)
}

// TestRedis kills three brokers that share a Redis.
func TestRedis(t *testing.T) {
	t.Parallel()
	n := total(t)
	kill(t, 3, n, redistest.Start(t).URL()+"?lease=1s", 3*time.Second)
}

// kill has publishers publish until n messages are acknowledged, while brokers are killed, one after each pause of up to
// most. Then each message that was acknowledged has come to each endpoint, with a signature, and to the one in order.
func kill(t *testing.T, brokers, n int, store string, most time.Duration) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()

	dir, secret := t.TempDir(), []byte("0123456789abcdef0123456789abcdef")
	var ledger chaos.Ledger
	ledger.Expect(ordered, chaos.Durable, 1)
	ledger.Expect(batched, chaos.Unordered, 1)
	rc := mustReceive(t, &ledger, secret)
	secretFile := filepath.Join(dir, "secret")
	if err := os.WriteFile(secretFile, []byte("whsec_"+base64.StdEncoding.EncodeToString(secret)), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "loopmq")
	if out, err := exec.Command("go", "build", "-o", path, "loopmq/cmd/loopmq").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	nodes := make([]*node, brokers)
	stop := make(chan struct{})
	var running, publishing sync.WaitGroup
	for i := range nodes {
		nodes[i] = &node{
			T: t, path: path, store: store, mqtt: "127.0.0.1:" + strconv.Itoa(child.FreePort()),
			config: filepath.Join(dir, fmt.Sprintf("node%d.yaml", i)),
		}
		if err := os.WriteFile(nodes[i].config, fmt.Appendf(nil, config, rc.URL, secretFile), 0o600); err != nil {
			t.Fatal(err)
		}
		running.Go(func() { nodes[i].run(stop) })
	}
	defer running.Wait()
	defer close(stop)

	began := time.Now()
	quiet := make(chan struct{})
	for i := range publishers {
		p := &chaos.Publisher{
			Client: chaos.Client{
				ClientID: fmt.Sprint("publisher", i), Addr: func() string { return nodes[rand.N(brokers)].mqtt },
				Version: []codec.Version{codec.V311, codec.V5}[i%2], SessionExpiryInterval: chaos.Never, Ledger: &ledger,
			},
			TopicName: fmt.Sprint("chaos/publisher", i), QoS: 1 + byte(i/2%2), Window: window,
		}
		publishing.Go(func() {
			if err := p.Run(ctx, quiet); err != nil {
				t.Error(err)
			}
		})
	}
	kills, acked := 0, 0
	for acked < n && ctx.Err() == nil {
		// Mostly, there is something to kill: on a busy machine a broker could do nothing but start.
		atOnce := rng.IntN(5) == 0
		for before := rc.requests.Load(); !atOnce && rc.requests.Load() == before && ctx.Err() == nil; {
			<-time.After(50 * time.Millisecond)
		}
		<-time.After(time.Duration(rng.Int64N(int64(most)))) // whatever goes on at that moment
		if p := nodes[rng.IntN(brokers)].process.Load(); p != nil {
			p.Kill()
			kills++
		}
		r := ledger.Check()
		acked = r.Acked[1] + r.Acked[2]
	}
	close(quiet)
	publishing.Wait()
	published := time.Since(began)
	for r := ledger.Check(); len(r.Lost) > 0 && ctx.Err() == nil; r = ledger.Check() {
		select {
		case <-time.After(200 * time.Millisecond): // They are on their way,
		case <-ctx.Done():
		}
		if len(r.Lost) > n/4 && rng.IntN(20) == 0 { // and have far to go.
			if p := nodes[rng.IntN(brokers)].process.Load(); p != nil {
				p.Kill()
				kills++
			}
		}
	}
	r := ledger.Check()
	t.Logf("%d kills; published in %v, delivered in %v; %d requests, %d failed, %d signatures verified\n%s",
		kills, published.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), rc.requests.Load(), rc.failed.Load(), rc.verified.Load(), r.String())
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	if kills == 0 || rc.failed.Load() == 0 {
		t.Errorf("%d kills, %d failures: nothing is shown", kills, rc.failed.Load())
	}
	if t.Failed() {
		for _, n := range nodes {
			log, _ := os.ReadFile(n.config + ".log")
			t.Logf("%s: …%s", n.config, log[max(0, len(log)-4000):])
		}
	}
}
