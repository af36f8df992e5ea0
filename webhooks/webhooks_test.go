package webhooks

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// Over TLS, with a CA of one's own and a certificate, by HTTP/2 and HTTP/1.1, connections are kept.
func TestTLS(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{true, false} {
		var connections atomic.Int64
		versions := make(chan string, 1000)
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			versions <- r.Proto
			if len(r.TLS.PeerCertificates) == 0 {
				w.WriteHeader(http.StatusForbidden)
			}
		}))
		s.EnableHTTP2 = http2
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
		s.StartTLS()
		defer s.Close()
		e := endpointAt("a", s.URL)
		e.Concurrency = 2
		pool := x509.NewCertPool()
		pool.AddCert(s.Certificate())
		e.TLS = &tls.Config{RootCAs: pool, Certificates: s.TLS.Certificates, ServerName: "example.com"}
		b := mustDeliver(t, e)
		b.publish(e, "t", 100)
		b.settled(e, 100, 0)
		want := "HTTP/1.1"
		if http2 {
			want = "HTTP/2.0"
		}
		if got := <-versions; got != want {
			t.Errorf("requests by %s, want %s", got, want)
		}
		if n := connections.Load(); n > 2 {
			t.Errorf("%d connections for 100 requests, two at a time", n)
		}
	}
	// Without the CA nothing is sent.
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	s.Config.ErrorLog = nil
	e := endpointAt("a", s.URL)
	e.MaxAge = 2 * time.Second
	b := mustDeliver(t, e)
	b.publish(e, "t", 1)
	b.settled(e, 0, 1)
	l, err := b.hooks.Letters(t.Context(), "a", "", 1)
	if err != nil || len(l) != 1 || l[0].Status != 0 || !strings.Contains(l[0].Reason, "certificate") {
		t.Errorf("%+v, %v", l, err)
	}
}

// Endpoints change while events come, and none is lost.
func TestReload(t *testing.T) {
	t.Parallel()
	rc := mustReceive(t, nil)
	a, c := endpointAt("a", rc.URL), endpointAt("c", rc.URL)
	b, ctx := mustDeliver(t, a, c), t.Context()
	kept := b.hooks.find("c")
	const rounds = 20
	for range rounds {
		b.publish(a, "t", 20)
		next := endpointAt("a", rc.URL)
		if err := b.hooks.Reload(ctx, []*Endpoint{next, c}); err != nil {
			t.Fatal(err)
		}
	}
	b.settled(a, 20*rounds, 0)
	if b.hooks.find("c") != kept {
		t.Error("an endpoint that hasn't changed was begun again")
	}
	if err := b.hooks.Reload(ctx, []*Endpoint{endpointAt("a", rc.URL), endpointAt("a", rc.URL)}); !errors.Is(err, ErrEndpoint) || !strings.Contains(err.Error(), `endpoint "a": Name`) {
		t.Errorf("two with one name: %v", err)
	}
	if err := b.hooks.Reload(ctx, []*Endpoint{{Name: "x"}}); !errors.Is(err, ErrEndpoint) {
		t.Errorf("no URL: %v", err)
	}
	if err := b.hooks.Forget(ctx, "a"); !errors.Is(err, ErrConfigured) {
		t.Errorf("forget one that is in use: %v", err)
	}

	// One that is no more leaves its outbox.
	var text bytes.Buffer
	b.metrics.WritePrometheus(&text)
	if !strings.Contains(text.String(), `loopmq_webhook_requests_total{endpoint="a",result="2xx"}`) {
		t.Error("no metrics of a")
	}
	if err := b.hooks.Reload(ctx, []*Endpoint{c}); err != nil {
		t.Fatal(err)
	}
	text.Reset()
	b.metrics.WritePrometheus(&text)
	if strings.Contains(text.String(), `endpoint="a"`) || !strings.Contains(text.String(), `endpoint="c"`) {
		t.Errorf("metrics of a, or none of c:\n%s", text.String())
	}
	b.publish(a, "t", 3)
	all, err := b.hooks.Status(ctx)
	if err != nil || len(all) != 2 || all[0].Endpoint != "c" || all[1].Endpoint != "a" || all[1].State != Unconfigured || all[1].Outbox.Queued != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := b.hooks.Forget(ctx, "a"); err != nil {
		t.Error(err)
	}
	if all, err := b.hooks.Status(ctx); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
}

// What metrics say is what the outbox says.
func TestMetrics(t *testing.T) {
	t.Parallel()
	rc := mustReceive(t, func(_ http.ResponseWriter, _ *http.Request, events []got) int {
		if events[0].Data%2 == 0 {
			return http.StatusTeapot
		}
		return http.StatusOK
	})
	e := endpointAt("a", rc.URL)
	b := mustDeliver(t, e)
	b.publish(e, "t", 10)
	b.settled(e, 5, 5)
	b.hooks.find("a").look(t.Context())
	var text bytes.Buffer
	b.metrics.WritePrometheus(&text)
	for _, line := range []string{
		`loopmq_webhook_requests_total{endpoint="a",result="2xx"} 5`, `loopmq_webhook_requests_total{endpoint="a",result="4xx"} 5`,
		`loopmq_webhook_events_matched_total{endpoint="a"} 10`, `loopmq_webhook_events_delivered_total{endpoint="a"} 5`,
		`loopmq_webhook_events_dead{endpoint="a"} 5`, `loopmq_webhook_events_queued{endpoint="a"} 0`, `loopmq_webhook_retries_total{endpoint="a"} 0`,
		`loopmq_webhook_request_seconds_count{endpoint="a"} 10`, `# TYPE loopmq_webhook_events_matched_total counter`,
	} {
		if !strings.Contains(text.String(), line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// While the store is away nothing is lost, and then it goes on.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	for _, order := range []Order{OrderNone, OrderTopic} {
		rc := mustReceive(t, nil)
		e := endpointAt("a", rc.URL)
		e.Order = order
		s := &mortal{Store: newMemory()}
		s.dead.Store(true)
		b := mustDeliverFrom(t, s, e)
		b.publish(e, "t", 50)
		b.until("it has noticed", func() bool {
			d := b.hooks.find("a")
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.mu.storeFailed
		})
		s.dead.Store(false)
		b.settled(e, 50, 0)
		if n, _ := rc.count(); n != 50 {
			t.Errorf("%d events came", n)
		}
	}
}

// Clients that wait for an answer get what the receiver says, whatever it is, or that it said nothing in time.
func TestRepliesOfDeliveries(t *testing.T) {
	t.Parallel()
	rc := mustReceive(t, func(w http.ResponseWriter, _ *http.Request, events []got) int {
		switch events[0].Data {
		case 1:
			_, _ = w.Write([]byte("done"))
			return 0
		case 2:
			return http.StatusForbidden
		}
		return http.StatusServiceUnavailable
	})
	broker := brokertest.Start(t).Broker
	replies := make(chan string, 10)
	cancel, err := broker.Subscribe("reply", func(m *loopmq.MessageView) {
		var p codec.Properties
		_ = m.Properties(&p)
		replies <- fmt.Sprintf("%s %s", m.Payload, p.UserProperties[0].Value)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	e := endpointAt("a", rc.URL)
	e.Replies = &Replies{TopicFilters: []string{"reply"}, Timeout: time.Hour}
	s := newMemory()
	b := &bench{T: t, store: s, writer: s.NewWriter("w")}
	if b.hooks, err = New(Options{Store: s, Broker: broker, Endpoints: []*Endpoint{e}}); err != nil {
		t.Fatal(err)
	}
	b.hooks.Start()
	defer b.hooks.Close(context.Background())
	for i, want := range []string{"done 200", " 403", " 504"} {
		r := full()
		r.id[0] = byte(i) // an event is answered once
		r.at, r.payload, r.properties = time.Now(), fmt.Append(nil, i+1), answerTo("reply")
		if want == " 504" {
			r.at = r.at.Add(2*time.Second - e.Replies.Timeout)
		}
		b.add(e, r.encode())
		select {
		case got := <-replies:
			if got != want {
				t.Errorf("%q, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no reply, want %q", want)
		}
	}
	b.settled(e, 1, 2)
	// One whose Response Topic isn't allowed gets none, and its event is delivered all the same.
	r := full()
	r.at, r.payload, r.properties = time.Now(), []byte("1"), answerTo("other")
	b.add(e, r.encode())
	b.settled(e, 2, 2)
	if n := b.hooks.metrics["a"].RepliesFailed.Get(); n != 1 {
		t.Errorf("%d replies failed, want 1", n)
	}
}

// answerTo are the properties of a message that wants its answer there.
func answerTo(topic string) []byte {
	return properties(func(p *codec.Properties) {
		p.ResponseTopic = []byte(topic)
		p.Set(codec.PropResponseTopic)
	})
}
