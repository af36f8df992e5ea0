package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/tmaxmax/go-sse"

	"loopmq"
	httpbridge "loopmq/bridges/http"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// window is how many events of a session may be unacknowledged here: few, so that clients come back often.
const window = 16

// startHTTP runs a broker with an HTTP listener, whose URL it returns, and publishes to it.
func startHTTP(t *testing.T, origins ...string) (b *loopmq.Broker, url string, publisher *brokertest.Client) {
	t.Helper()
	s := brokertest.Start(t)
	bridge := httpbridge.New(httpbridge.Options{
		Broker: s.Broker, Origins: origins, Streams: httpbridge.StreamOptions{Window: window}, Logger: slog.New(slog.DiscardHandler),
	})
	addr, err := bridge.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // who is there is cut off
		_ = bridge.Shutdown(ctx)
	})
	return s.Broker, "http://" + addr.String(), brokertest.Connect(t, s.Addr, codec.V5)
}

// payload returns that of an event.
func payload(t *testing.T, data string) string {
	t.Helper()
	var m struct{ Payload string }
	if err := json.Unmarshal([]byte(data), &m); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	return m.Payload
}

// A client library of server-sent events that knows nothing of sessions misses nothing of one: it comes back with Last-Event-ID.
func TestStreamGoSSE(t *testing.T) {
	_, url, publisher := startHTTP(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/subscribe?session=s&filter=t", nil)
	if err != nil {
		t.Fatal(err)
	}
	connection := sse.NewConnection(r)
	got := make(chan string, 1000)
	connection.SubscribeEvent("message", func(e sse.Event) { got <- e.Data })
	ended := make(chan error, 1)
	go func() { ended <- connection.Connect() }()
	defer func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) && !errors.Is(err, io.EOF) {
			t.Errorf("the connection ended: %v", err)
		}
	}()
	const n = 10 * window
	first := ""
	for first == "" { // until it is there
		publisher.Publish("t", "first", 1)
		select {
		case first = <-got:
		default:
		}
	}
	for i := range n {
		publisher.Publish("t", fmt.Sprint(i), 1)
	}
	for i := 0; i < n; {
		switch p := payload(t, wait(t, got, "an event")); p {
		case "first":
		case fmt.Sprint(i):
			i++
		default:
			t.Fatalf("got %s, want %d", p, i)
		}
	}
}

// eventSource is a page with nothing but what browsers have.
const eventSource = `<!DOCTYPE html><title>loopmq</title><script>
const tell = (event) => fetch('/told', { method: 'POST', body: JSON.stringify(event) })
const url = %q
let told = Promise.resolve()
const source = new EventSource(url + '/subscribe?session=page&filter=to/page')
const in_order = (event) => { told = told.then(() => tell(event)) }
source.onmessage = (e) => in_order(e.data)
source.addEventListener('end', (e) => { source.close(); in_order('end ' + e.data) })
source.onopen = () => in_order('open')
</script>`

// EventSource in a real browser misses nothing of a session either.
func TestStreamEventSource(t *testing.T) {
	s := newSiteOf(t, eventSource)
	b, url, publisher := startHTTP(t, s.URL)
	s.open(t, url)
	if got := wait(t, s.told, "the page"); got != "open" {
		t.Fatalf("the page says %q", got)
	}
	const n = 3 * window
	for i := range n {
		publisher.Publish("to/page", fmt.Sprint("ü €", i), 1)
	}
	for i := 0; i < n; {
		got := wait(t, s.told, "an event")
		if got == "open" {
			continue
		}
		if p := payload(t, got); p != fmt.Sprint("ü €", i) {
			t.Fatalf("got %s, want %d", p, i)
		}
		i++
	}
	if err := b.Kick(t.Context(), loopmq.LocalClientIDs+"http//page"); err != nil {
		t.Fatal(err)
	}
	for got := "open"; got != `end {"reason_code":152,"reason":"disconnected by an administrator"}`; {
		if got != "open" {
			t.Fatalf("the page says %q", got)
		}
		got = wait(t, s.told, "the end of the stream")
	}
}
