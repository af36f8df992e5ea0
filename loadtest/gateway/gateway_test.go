package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/loadtest/gateway"
)

// start starts a Gateway, which ends with the test, and collects its errors.
func start(t *testing.T, o gateway.Options) (*gateway.Gateway, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var errs []string
	o.OnError = func(what, example string) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, what+": "+example)
	}
	g, err := gateway.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return errs
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	status := http.StatusAccepted
	requests := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		user, password, _ := r.BasicAuth()
		requests <- fmt.Sprint(r.Method, r.URL.Path, " ", user, ":", password, " ", r.Header.Get("Mqtt-Client-Id"), " ", string(body))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "as you like\n")
	}))
	defer server.Close()
	g, errs := start(t, gateway.Options{PublishURL: server.URL + "/publish"})
	for _, version := range []codec.Version{codec.V311, codec.V5} {
		c := brokertest.Connect(t, g.Addr(), version, brokertest.Credentials("ada", "secret"), brokertest.ClientID("c1"))
		for qos := range byte(3) {
			c.Publish("a/b", "hi", qos)
			want := fmt.Sprintf(`POST/publish ada:secret c1 {"topic":"a/b","payload":"aGk=","payload_encoding":"base64","qos":%d,"retain":false}`, qos)
			if got := <-requests; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}
		c.Ping()
		c.Disconnect()
	}
	// What the broker refuses isn't acknowledged: the connection ends.
	status = http.StatusTooManyRequests
	c := brokertest.Connect(t, g.Addr(), codec.V311)
	c.Send(&codec.Publish{TopicName: []byte("a"), QoS: 1, PacketID: 1})
	c.ExpectClosed()
	if got := errs(); len(got) != 1 || got[0] != "gateway: publish by HTTP: 429 Too Many Requests: as you like" {
		t.Errorf("errors: %q", got)
	}
}

// TestNoPublish: without a URL nobody can publish, without webhooks nobody subscribe.
func TestNeither(t *testing.T) {
	t.Parallel()
	g, errs := start(t, gateway.Options{})
	c := brokertest.Connect(t, g.Addr(), codec.V5)
	c.Send(&codec.Subscribe{PacketID: 7, Subscriptions: []codec.Subscription{brokertest.Subscription("a", 1)}})
	c.ExpectSuback(7, codec.UnspecifiedError)
	c.Send(&codec.Publish{TopicName: []byte("a")})
	c.ExpectClosed()
	if got := errs(); len(got) != 1 || !strings.Contains(got[0], "without a URL") {
		t.Errorf("errors: %q", got)
	}
	brokertest.Connect(t, g.Addr(), codec.V5).Send(&codec.Auth{})
}

// post sends a webhook and returns the status of the answer.
func post(t *testing.T, g *gateway.Gateway, header http.Header, body string) int {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "http://"+g.WebhookAddr()+"/any", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

func contentType(media string) http.Header { return http.Header{"Content-Type": {media}} }

func TestWebhook(t *testing.T) {
	t.Parallel()
	for _, version := range []codec.Version{codec.V311, codec.V5} {
		for name, test := range map[string]struct {
			header http.Header
			body   string
			want   string
		}{
			"structured, base64": {contentType("application/cloudevents+json; charset=utf-8"), `{"subject":"a/b","qos":1,"data_base64":"aGk="}`, "hi"},
			"structured, text":   {contentType("application/cloudevents+json"), `{"subject":"a/b","qos":2,"data":"hi"}`, "hi"},
			"structured, JSON":   {contentType("application/cloudevents+json"), `{"subject":"a/b","data":{"x": 1}}`, `{"x": 1}`},
			"structured, none":   {contentType("application/cloudevents+json"), `{"subject":"a/b"}`, ""},
			"batch":              {contentType("application/cloudevents-batch+json"), ` [{"subject":"a/b","data":"hi"},{"subject":"nobody/wants","data":"ho"}]`, "hi"},
			"binary":             {http.Header{"Ce-Subject": {"a%2Fb"}, "Ce-Qos": {"1"}}, "hi", "hi"},
			"EMQX":               {contentType("application/json"), `{"topic":"a/b","qos":1,"payload":"aGk=","payload_encoding":"base64"}`, "hi"},
			"EMQX, text":         {contentType("application/json"), `{"topic":"a/b","qos":1,"payload":"hi"}`, "hi"},
		} {
			t.Run(fmt.Sprint(version, " ", name), func(t *testing.T) {
				t.Parallel()
				for _, filter := range []string{"a/b", "a/+", "#"} {
					g, _ := start(t, gateway.Options{Webhook: "127.0.0.1:0"})
					c := brokertest.Connect(t, g.Addr(), version)
					c.Subscribe(filter, 2)
					if status := post(t, g, test.header, test.body); status != http.StatusOK {
						t.Fatalf("status %d", status)
					}
					c.Acknowledge(c.ExpectPublish("a/b", test.want))
					if filter == "#" && name == "batch" {
						c.Acknowledge(c.ExpectPublish("nobody/wants", "ho"))
					}
					c.Unsubscribe(filter)
					c.Ping()
					// Who has subscribed and isn't there: the broker is to try again.
					if status := post(t, g, test.header, test.body); status != http.StatusServiceUnavailable {
						t.Errorf("with nobody there the status is %d", status)
					}
					c.Disconnect()
				}
			})
		}
	}
}

func TestBadWebhooks(t *testing.T) {
	t.Parallel()
	g, errs := start(t, gateway.Options{Webhook: "127.0.0.1:0"})
	for i, test := range []struct {
		header http.Header
		body   string
	}{
		{contentType("text/plain"), "hi"},
		{contentType("application/json"), "{"},
		{contentType("application/json"), `[{"topic":7}]`},
		{contentType("application/json"), `{"payload":"x"}`},
		{contentType("application/json"), `{"topic":"a/#","payload":"x"}`},
		{contentType("application/json"), `{"topic":"a","payload":"?","payload_encoding":"base64"}`},
		{http.Header{"Ce-Subject": {"%zz"}}, ""},
	} {
		if status := post(t, g, test.header, test.body); status != http.StatusBadRequest {
			t.Errorf("%d: status %d, want 400", i, status)
		}
	}
	if got := errs(); len(got) != 7 {
		t.Errorf("errors: %q", got)
	}
	if status := post(t, g, contentType("application/json"), `{"topic":"nobody","payload":"x"}`); status != http.StatusOK {
		t.Errorf("what nobody has asked for: status %d", status)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for _, o := range []gateway.Options{
		{PublishURL: "tcp://127.0.0.1:1883"}, {PublishURL: "http://"}, {PublishURL: ":"}, {Webhook: other.Listener.Addr().String()},
	} {
		if g, err := gateway.Start(o); err == nil {
			g.Close()
			t.Errorf("%+v was taken", o)
		}
	}
}

// TestMalformed: who doesn't speak MQTT is told so by the end of its connection.
func TestMalformed(t *testing.T) {
	t.Parallel()
	g, _ := start(t, gateway.Options{Webhook: "127.0.0.1:0", PublishURL: "http://127.0.0.1:1"})
	for _, b := range []string{"GET / HTTP/1.1\r\n\r\n", "\x10\x02\x00\x00", "\x30\x01\x00", "\x82\x02\x00\x01", "\xa2\x01\x00", "\x50\x01\x00", "\x30\xff\xff\xff\x7f"} {
		c := brokertest.Dial(t, g.Addr(), codec.V311)
		c.SendRaw([]byte(b))
		c.ExpectClosed()
	}
	c := brokertest.Connect(t, g.Addr(), codec.V311) // and nobody listens for what it publishes
	c.Send(&codec.Publish{TopicName: []byte("a"), QoS: 1, PacketID: 1})
	c.ExpectClosed()
}

func FuzzWebhook(f *testing.F) {
	for _, body := range []string{`{"subject":"a","data_base64":"aGk="}`, `[{"topic":"a","payload":{"b":[1]}}]`, `[`, `{"subject":"a","data":"x"}`, "[]"} {
		f.Add("application/json", "", body)
	}
	f.Add("", "a%2Fb", "x")
	g, err := gateway.Start(gateway.Options{Webhook: "127.0.0.1:0"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(g.Close)
	f.Fuzz(func(t *testing.T, media, subject, body string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", media)
		r.Header.Set("Ce-Subject", subject)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if subject == "" && w.Code == http.StatusOK && !json.Valid([]byte(body)) {
			t.Errorf("%q was taken", body)
		}
	})
}
