package httpbridge_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	httpbridge "loopmq/bridges/http"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/redistest"
	"loopmq/redisstore"
)

// patience is how long tests wait for what must come.
const patience = 30 * time.Second

// bridge is a Bridge on a port of its own, before a broker.
type bridge struct {
	*httpbridge.Bridge
	t   testing.TB
	url string
}

func mustBridge(t testing.TB, s *brokertest.Server, change ...func(*httpbridge.Options)) *bridge {
	t.Helper()
	o := httpbridge.Options{Broker: s.Broker, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&o)
	}
	b := &bridge{Bridge: httpbridge.New(o), t: t}
	addr, err := b.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.url = "http://" + addr.String()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return b
}

// httpClient keeps no connections, so that none delays a Shutdown.
var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (b *bridge) do(method, path string, body io.Reader, header ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, body)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return httpClient.Do(r)
}

// expect sends a request and returns the body of its answer.
func (b *bridge) expect(status int, method, path, body string, header ...string) string {
	b.t.Helper()
	resp, err := b.do(method, path, strings.NewReader(body), header...)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.StatusCode != status {
		b.t.Fatalf("%s %s: got %d %s, want %d", method, path, resp.StatusCode, text, status)
	}
	if status >= 400 && resp.Header.Get("Content-Type") != "application/problem+json" {
		b.t.Errorf("%s %s: Content-Type of a problem is %q", method, path, resp.Header.Get("Content-Type"))
	}
	return string(text)
}

// sse is a stream as its client sees it.
type sse struct {
	t      testing.TB
	resp   *http.Response
	events chan sseEvent
}

type sseEvent struct {
	id, name, data string
	retry          string
	comment        bool
	message        sseMessage
}

type sseMessage struct {
	Topic           string          `json:"topic"`
	Payload         json.RawMessage `json:"payload"`
	PayloadEncoding string          `json:"payload_encoding"`
	QoS             int             `json:"qos"`
	Retain          bool            `json:"retain"`
	Dup             bool            `json:"dup"`
	Properties      map[string]any  `json:"properties"`
}

// stream opens a stream.
func (b *bridge) stream(query string, header ...string) *sse {
	b.t.Helper()
	resp, err := b.do("GET", "/subscribe?"+query, nil, header...)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("X-Accel-Buffering") != "no" {
		text, _ := io.ReadAll(resp.Body)
		b.t.Fatalf("GET /subscribe?%s: %d, %v, %s", query, resp.StatusCode, resp.Header, text)
	}
	s := &sse{t: b.t, resp: resp, events: make(chan sseEvent, 10_000)}
	b.t.Cleanup(s.close)
	go s.read()
	if e := s.next(); e.retry == "" {
		b.t.Errorf("the stream begins with %+v, want retry", e)
	}
	return s
}

func (s *sse) close() { _ = s.resp.Body.Close() }

func (s *sse) read() {
	defer close(s.events)
	lines := bufio.NewScanner(s.resp.Body)
	lines.Buffer(nil, 1<<24)
	var e sseEvent
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case lines.Text() == "":
			s.events <- e
			e = sseEvent{}
		case field == "":
			e.comment = true
		case field == "id":
			e.id = value
		case field == "event":
			e.name = value
		case field == "retry":
			e.retry = value
		case field == "data" && e.data != "":
			e.data += "\n" + value
		case field == "data":
			e.data = value
		}
	}
}

// next returns the next event.
func (s *sse) next() sseEvent {
	s.t.Helper()
	select {
	case e, ok := <-s.events:
		if !ok {
			return sseEvent{name: "closed"}
		}
		return e
	case <-time.After(patience):
		s.t.Fatal("no event comes")
		return sseEvent{}
	}
}

// expect returns the next event, which has to be a message with a payload.
func (s *sse) expect(payload string) sseEvent {
	s.t.Helper()
	e := s.next()
	if e.name != "message" {
		s.t.Fatalf("got %+v, want the message %q", e, payload)
	}
	if err := json.Unmarshal([]byte(e.data), &e.message); err != nil {
		s.t.Fatalf("%s: %v", e.data, err)
	}
	var text string
	if json.Unmarshal(e.message.Payload, &text) != nil || text != payload {
		s.t.Fatalf("got %s, want the payload %q", e.data, payload)
	}
	return e
}

// expectEnd expects that the server ends the stream, for a reason.
func (s *sse) expectEnd(code codec.ReasonCode) {
	s.t.Helper()
	e := s.next()
	var end struct {
		ReasonCode codec.ReasonCode `json:"reason_code"`
	}
	if err := json.Unmarshal([]byte(e.data), &end); e.name != "end" || err != nil || end.ReasonCode != code {
		s.t.Fatalf("got %+v, want an end for %v", e, code)
	}
	if e = s.next(); e.name != "closed" {
		s.t.Errorf("the stream goes on with %+v", e)
	}
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("a/retained", "r", 1, brokertest.Retained)
	all := b.stream("filter=a/%2B&filter=b&filter=b&qos=2")
	if e := all.expect("r"); !e.message.Retain || e.message.Topic != "a/retained" || e.id != "" || e.message.QoS != 1 {
		t.Errorf("retained: got %+v", e)
	}
	for qos := range byte(3) {
		pub.Publish("a/b", fmt.Sprint(qos), qos)
		if e := all.expect(fmt.Sprint(qos)); e.message.QoS != int(qos) || e.message.Retain || e.message.PayloadEncoding != "plain" || e.message.Dup {
			t.Errorf("QoS %d: got %+v", qos, e)
		}
	}
	pub.Publish("b", "\xff\x00", 1)
	if e := all.next(); !strings.Contains(e.data, `"payload":"/wA=","payload_encoding":"base64"`) {
		t.Errorf("binary payload: got %s", e.data)
	}
	none := b.stream("filter=a/%2B&retained=none&qos=0")
	pub.Publish("a/b", "line 1\r\nline\u2028 \"2\"\t\\", 1)
	all.expect("line 1\r\nline\u2028 \"2\"\t\\")
	if e := none.expect("line 1\r\nline\u2028 \"2\"\t\\"); e.message.QoS != 0 {
		t.Errorf("QoS: got %d, want 0", e.message.QoS)
	}
	for query, want := range map[string]string{
		"payload=json":   `{"topic":"x","payload":{"a":[1,2]},"payload_encoding":"json","qos":0,"retain":false`,
		"payload=base64": `{"topic":"x","payload":"eyJhIjoKWzEsIDJdfQ==","payload_encoding":"base64","qos":0,"retain":false`,
		"payload=plain":  `{"topic":"x","payload":"{\"a\":\u000a[1, 2]}","payload_encoding":"plain","qos":0,"retain":false`,
		"format=payload": "{\"a\":\n[1, 2]}",
	} {
		s := b.stream("filter=x&" + query)
		pub.Publish("x", "{\"a\":\n[1, 2]}", 1, func(p *codec.Publish) {
			p.Properties = brokertest.Properties(
				codec.PropPayloadFormatIndicator, 1, codec.PropMessageExpiryInterval, 60, codec.PropContentType, "application/json",
				codec.PropResponseTopic, "r", codec.PropCorrelationData, "\xff", codec.PropUserProperty, [2]string{"k", "1"}, codec.PropUserProperty, [2]string{"k", "2"})
		})
		e := s.next()
		if query != "format=payload" {
			want += `,"properties":{"payload_format_indicator":1,"message_expiry_interval":60,"content_type":"application/json","response_topic":"r",` +
				`"correlation_data":"/w==","correlation_data_encoding":"base64","user_properties":[["k","1"],["k","2"]]}}`
		}
		if e.data != want {
			t.Errorf("%s: got %s, want %s", query, e.data, want)
		}
	}
}

func TestSubscribeRefused(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authorizer, o.Authenticator = notSecret{}, passwords{} })
	b := mustBridge(t, s)
	for query, status := range map[string]int{
		"": 400, "filter=": 400, "filter=a%23": 400, "filter=%zz": 400, "filter=a&qos=3": 400, "filter=a&qos=1&qos=1": 400, "filter=a&other": 400,
		"filter=a&session=": 400, "filter=a&session=a/b": 400, "filter=a&session=" + strings.Repeat("x", 65): 400, "filter=a&expiry=1": 400,
		"filter=a&session=s&expiry=0": 400, "filter=a&session=s&expiry=4294967296": 400, "filter=a&retained=x": 400, "filter=a&payload=x": 400,
		"filter=a&format=x": 400, "filter=a&session=s&last_event_id=x": 400, "filter=secret": 403, "filter=hidden": 403, "filter=a&filter=%24share/g/hidden": 403, "filter=hidden/%23": 200, "filter=own": 200, "session=none": 404,
		strings.Repeat("filter=a&", 101): 200, "filter=" + strings.Repeat("a/", 300): 400,
		func() (q string) {
			for i := range 101 {
				q += fmt.Sprintf("filter=%d&", i)
			}
			return q
		}(): 400,
	} {
		resp, err := b.do("GET", "/subscribe?"+query, nil, "Authorization", "Basic dTpwdw==")
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		if resp.StatusCode != 200 {
			body, _ := io.ReadAll(resp.Body)
			text = string(body)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%.60s: got %d %s, want %d", query, resp.StatusCode, text, status)
		}
	}
	b.expect(401, "GET", "/subscribe?filter=a", "")
	b.expect(401, "GET", "/subscribe?filter=a&access_token=wrong", "")
	b.expect(200, "HEAD", "/subscribe?filter=a", "", "Authorization", "Basic dTpwdw==")
	b.expect(400, "GET", "/subscribe?filter=a&access_token=token", "", "Authorization", "Basic dTpwdw==")
	b.stream("filter=a&access_token=token")
	for query, status := range map[string]int{"": 400, "session=a/b": 400, "session=x": 400, "last_event_id=1-1-1": 400, "session=x&last_event_id=1-1-1": 409, "session=x&last_event_id=y": 400, "x=y": 400} {
		b.expect(status, "POST", "/subscribe?"+query, "", "Authorization", "Basic dTpwdw==")
	}
	for query, status := range map[string]int{"": 400, "session=a/b": 400, "session=x": 204, "x=y": 400} {
		b.expect(status, "DELETE", "/subscribe?"+query, "", "Authorization", "Basic dTpwdw==")
	}
	b.expect(405, "PUT", "/subscribe", "", "Authorization", "Basic dTpwdw==")
}

// notSecret allows everything but the topics "secret", and "hidden", to which all may subscribe. "own" is for the streams of u.
type notSecret struct{}

func (notSecret) Authorize(_ context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) bool {
	return topic != "secret" && (a != loopmq.ActionDeliver || topic != "hidden" && (topic != "own" || strings.HasPrefix(c.ClientID, "$local/http/u/~")))
}

func (notSecret) AuthorizesDeliveries() bool { return true }

// passwords has everybody's password be "pw", and one token.
type passwords struct{}

func (passwords) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	switch {
	case r.HasUsername && string(r.Password) == "pw":
		return loopmq.Identity{Username: r.Username}, nil, nil
	case r.AuthenticationMethod == "JWT" && string(r.AuthenticationData) == "token":
		return loopmq.Identity{Username: "token"}, nil, nil
	case r.AuthenticationMethod == "JWT" && string(r.AuthenticationData) == "short":
		return loopmq.Identity{Username: "short", ExpiresAt: time.Now().Add(2 * time.Second)}, nil, nil
	}
	return loopmq.Identity{}, nil, codec.NewError(codec.BadUserNameOrPassword, "wrong")
}

func (passwords) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, codec.NewError(codec.NotAuthorized, "no")
}

// A named session has what was not acknowledged, and a stream that begins with Last-Event-ID acknowledges what came before.
func TestSubscribeSession(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	const query = "session=s&filter=t&expiry=60"
	one := b.stream(query)
	pub.Publish("t", "0", 0)
	if e := one.expect("0"); e.id != "" {
		t.Errorf("QoS 0 has the id %q", e.id)
	}
	var ids []string
	for i := range 4 {
		pub.Publish("t", fmt.Sprint("m", i), 1)
		e := one.expect(fmt.Sprint("m", i))
		ids = append(ids, e.id)
		if e.id == "" || e.message.Dup {
			t.Errorf("got %+v", e)
		}
	}
	one.close()
	pub.Publish("t", "m4", 1)

	two := b.stream(query) // says nothing: all again
	for i := range 5 {
		if e := two.expect(fmt.Sprint("m", i)); i < 4 && (e.id != ids[i] || !e.message.Dup) {
			t.Errorf("%d: got %+v, want the id %s", i, e, ids[i])
		}
	}
	b.expect(204, "POST", "/subscribe?session=s&last_event_id="+ids[1], "")
	b.expect(409, "POST", "/subscribe?session=s&last_event_id="+ids[1], "")

	three := b.stream(query, "Last-Event-ID", ids[2]) // takes it over
	two.expectEnd(codec.SessionTakenOver)
	three.expect("m3")
	last := three.expect("m4")
	three.close()

	four := b.stream("session=s&last_event_id=" + last.id) // with the filters that it has
	pub.Publish("t", "m5", 1)
	four.expect("m5")
	four.close()

	five := b.stream("session=s&filter=u&qos=1") // with others
	five.expect("m5")
	pub.Publish("t", "not subscribed any more", 1)
	pub.Publish("u", "u", 1)
	five.expect("u")
	b.expect(204, "DELETE", "/subscribe?session=s", "")
	five.expectEnd(codec.SessionTakenOver)
	pub.Publish("u", "nobody is there", 1)
	six := b.stream("session=s&filter=u")
	pub.Publish("u", "new", 1)
	if e := six.expect("new"); e.message.Dup {
		t.Error("a new session begins with DUP")
	}
}

// When three quarters of the window are unacknowledged the response ends, and whoever comes back as EventSource does misses nothing.
func TestSubscribeWindow(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s, func(o *httpbridge.Options) { o.Streams.Window = 16 })
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	const n = 200
	b.stream("session=s&filter=t").close()
	for i := range n {
		pub.Publish("t", fmt.Sprint(i), 1)
	}
	var header []string
	responses := 0
	for got := 0; got < n; responses++ {
		stream := b.stream("session=s&filter=t", header...)
		for {
			e := stream.next()
			if e.name == "closed" {
				break
			}
			if e.retry != "" {
				continue
			}
			if !strings.Contains(e.data, fmt.Sprintf(`"payload":"%d"`, got)) {
				t.Fatalf("got %s, want %d", e.data, got)
			}
			header = []string{"Last-Event-ID", e.id}
			if got++; got == n {
				break
			}
		}
		stream.close()
	}
	if responses < n/16 || responses > n/10 {
		t.Errorf("%d responses for %d events in a window of 16", responses, n)
	}
}

// Another user's session of the same name is another session, and no MQTT client can have it.
func TestSubscribeSessionsAreTheUsers(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = passwords{} })
	b := mustBridge(t, s)
	auth := func(user string) []string {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(user, "pw")
		return []string{"Authorization", r.Header.Get("Authorization")}
	}
	alice, bob := b.stream("session=s&filter=t", auth("alice")...), b.stream("session=s&filter=t", auth("bob")...)
	mallory := brokertest.Dial(t, s.Addr, codec.V5)
	mallory.SendConnect(brokertest.ClientID("$local/http/alice/s"), brokertest.Credentials("mallory", "pw"))
	mallory.ExpectConnack(codec.ClientIdentifierNotValid)
	b.expect(204, "DELETE", "/subscribe?session=s", "", auth("alice/s")...)
	pub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Credentials("p", "pw"))
	pub.Publish("t", "x", 1)
	e := alice.expect("x")
	bob.expect("x")
	b.expect(409, "POST", "/subscribe?session=s&last_event_id="+e.id, "", auth("bob")...)
	b.expect(204, "POST", "/subscribe?session=s&last_event_id="+e.id, "", auth("alice")...)
}

func TestSubscribeEnds(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = passwords{} })
	b := mustBridge(t, s)
	short := b.stream("filter=t&access_token=short")
	kicked := b.stream("filter=t&session=kicked&access_token=token")
	stays := b.stream("filter=t&session=stays&access_token=token")
	if err := s.Broker.Kick(t.Context(), "$local/http/token/kicked"); err != nil {
		t.Fatal(err)
	}
	kicked.expectEnd(codec.AdministrativeAction)
	short.expectEnd(codec.NotAuthorized)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	stays.expectEnd(codec.ServerShuttingDown)
	for _, reason := range []string{"not_authorized", "administrative", "server_shutdown"} {
		expectMetric(t, s, fmt.Sprintf(`loopmq_http_streams_ended_total{reason=%q}`, reason), 1)
	}
	expectMetric(t, s, "loopmq_http_streams", 0)
}

func expectMetric(t testing.TB, s *brokertest.Server, name string, want int) {
	t.Helper()
	line := fmt.Sprintf("%s %d\n", name, want)
	for deadline := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		var text strings.Builder
		s.Broker.Metrics().WritePrometheus(&text)
		if strings.Contains(text.String(), line) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s doesn't become %d: %s", name, want, grep(text.String(), name))
		}
	}
}

func grep(text, with string) (found string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, with) {
			found += line
		}
	}
	return found
}

func TestSubscribeBounds(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Authenticator = passwords{} })
	b := mustBridge(t, s, func(o *httpbridge.Options) { o.Streams.Max, o.Streams.PerAddress, o.Streams.PerUser = 4, 3, 2 })
	other := mustBridge(t, s, func(o *httpbridge.Options) { o.Streams.Max = 1 })
	one := b.stream("filter=t&access_token=token")
	b.stream("filter=t&access_token=token")
	b.expect(429, "GET", "/subscribe?filter=t&access_token=token", "")
	b.stream("filter=t", "Authorization", "Basic dTpwdw==")
	b.expect(429, "GET", "/subscribe?filter=t", "", "Authorization", "Basic dTpwdw==")
	one.close()
	expectMetric(t, s, "loopmq_http_streams", 2)
	b.stream("filter=t&access_token=token")
	other.stream("filter=t&access_token=token")
	other.expect(503, "GET", "/subscribe?filter=t&access_token=token", "")
}

// A client that doesn't read costs no more than its buffer, and its stream ends.
func TestSubscribeSlowReader(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s, func(o *httpbridge.Options) {
		o.Streams.BufferBytes, o.Streams.WriteTimeout = 64<<10, 3*time.Second
	})
	u, _ := url.Parse(b.url)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(conn, "GET /subscribe?filter=t&session=slow HTTP/1.1\r\nHost: %s\r\n\r\n", u.Host)
	expectMetric(t, s, "loopmq_http_streams", 1)
	expectMetric(t, s, "loopmq_subscriptions", 1)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	payload := strings.Repeat("x", 32<<10)
	for range 200 {
		pub.Publish("t", payload, 0)
		pub.Publish("t", payload, 1)
	}
	expectMetric(t, s, `loopmq_http_streams_ended_total{reason="slow"}`, 1)
	var text strings.Builder
	s.Broker.Metrics().WritePrometheus(&text)
	if strings.Contains(text.String(), `loopmq_messages_dropped_total{qos="0",reason="output_full"} 0`) {
		t.Error("QoS 0 was not dropped")
	}
	again := b.stream("filter=t&session=slow") // has them all
	for range 200 {
		again.expect(payload)
	}
}

func TestSubscribeHeartbeat(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s, func(o *httpbridge.Options) {
		o.Streams.Heartbeat = 10 * time.Millisecond
		o.Timeout = 400 * time.Millisecond
	})
	stream := b.stream("filter=t")
	for range 50 { // longer than other requests may take
		if e := stream.next(); !e.comment {
			t.Fatalf("got %+v, want a comment", e)
		}
	}
}

// HTTP/2 with prior knowledge has streams too.
func TestSubscribeHTTP2(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	for range 3 {
		resp, err := client.Get(b.url + "/subscribe?filter=t&qos=1")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 {
			t.Errorf("got %s", resp.Proto)
		}
		stream := &sse{t: t, resp: resp, events: make(chan sseEvent, 10)}
		go stream.read()
		stream.next()
		pub.Publish("t", "x", 1)
		stream.expect("x")
	}
}

func TestSubscribeCurl(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s)
	cmd := exec.CommandContext(t.Context(), "curl", "-sN", b.url+"/subscribe?filter=a/%2B")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(out)
	lines.Scan()
	if lines.Text() != "retry: 2000" {
		t.Errorf("got %q", lines.Text())
	}
	brokertest.Connect(t, s.Addr, codec.V5).Publish("a/b", "hi", 1)
	var got []string
	for len(got) < 3 && lines.Scan() {
		got = append(got, lines.Text())
	}
	want := []string{"", "event: message", `data: {"topic":"a/b","payload":"hi","payload_encoding":"plain","qos":0,"retain":false}`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s)
	b.expect(404, "POST", "/request/device/1", "")
	device := brokertest.Connect(t, s.Addr, codec.V5)
	device.Subscribe("device/#", 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		resp, err := b.do("POST", "/request/device/1?timeout=20s", strings.NewReader("how are you"), "Content-Type", "text/plain")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || string(text) != `{"fine":true}` || resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("Mqtt-User-Property") != "k=v" {
			t.Errorf("got %d %v %s", resp.StatusCode, resp.Header, text)
		}
	})
	p := device.ExpectPublish("device/1", "how are you")
	device.Acknowledge(p)
	topic, id := string(p.Properties.ResponseTopic), p.Properties.CorrelationData
	if string(p.Properties.ContentType) != "text/plain" || !strings.HasPrefix(topic, "loopmq/reply/") || p.QoS != 1 {
		t.Errorf("the request is %+v", p)
	}
	reply := func(id []byte) {
		device.Publish(topic, `{"fine":true}`, 1, func(p *codec.Publish) {
			p.Properties = brokertest.Properties(codec.PropContentType, "application/json", codec.PropUserProperty, [2]string{"k", "v"})
			if id != nil {
				p.Properties.CorrelationData = id
				p.Properties.Set(codec.PropCorrelationData)
			}
		})
	}
	reply(nil)
	reply([]byte("forged"))
	reply(append([]byte("forge"), id[5:]...))
	reply(append(id, 'x'))
	expectMetric(t, s, "loopmq_http_replies_ignored_total", 4)
	reply(id)
	wg.Wait()
	reply(id) // late
	expectMetric(t, s, "loopmq_http_replies_ignored_total", 5)
	expectMetric(t, s, "loopmq_http_replies_awaited", 0)

	b.expect(504, "POST", "/request/device/1?timeout=50ms", "x")
	for query, status := range map[string]int{"timeout=x": 400, "timeout=0": 400, "timeout=11m": 400, "qos=3": 400, "other=1": 400, "qos=0&timeout=10ms": 504} {
		b.expect(status, "POST", "/request/device/1?"+query, "x")
	}
	b.expect(400, "POST", "/request/a%23", "x")
	b.expect(400, "POST", "/request/device/1", "x", "Idempotency-Key", "k1")
}

// No more than Replies.Max requests wait.
func TestRequestBound(t *testing.T) {
	t.Parallel()
	s := brokertest.Start(t)
	b := mustBridge(t, s, func(o *httpbridge.Options) { o.Replies = httpbridge.ReplyOptions{Max: 1, TopicPrefix: "r"} })
	device := brokertest.Connect(t, s.Addr, codec.V5)
	device.Subscribe("d", 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.expect(504, "POST", "/request/d?timeout=4s", "x")
	}()
	p := device.ExpectPublish("d", "x")
	if !strings.HasPrefix(string(p.Properties.ResponseTopic), "r/") {
		t.Errorf("Response Topic is %q", p.Properties.ResponseTopic)
	}
	b.expect(503, "POST", "/request/d", "x")
	<-done
}

// A session goes on at another node, after its node was left, has taken leave, or was declared dead; requests find devices there.
func TestSubscribeAtAnotherNode(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var brokers [2]*brokertest.Server
	var bridges [2]*bridge
	for i := range brokers {
		s, err := redisstore.NewStore(t.Context(), server.URL()+"?prefix=lmq:&lease=3s", redisstore.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		brokers[i] = brokertest.Start(t, func(o *loopmq.Options) { o.Store = s })
		bridges[i] = mustBridge(t, brokers[i])
	}
	pub := brokertest.Connect(t, brokers[0].Addr, codec.V5)
	pub.SetTimeout(patience)
	next := 0
	publish := func() string {
		next++
		pub.Publish("t", fmt.Sprint(next), 1)
		return fmt.Sprint(next)
	}
	stream := bridges[0].stream("session=s&filter=t")
	acked := stream.expect(publish())
	stream.expect(publish())
	other := bridges[1].stream("session=s&filter=t", "Last-Event-ID", acked.id)
	stream.expectEnd(codec.SessionTakenOver)
	if e := other.expect("2"); !e.message.Dup {
		t.Error("DUP: got 0 for what the other node sent")
	}
	acked = other.expect(publish())
	// Either node takes the acknowledgement to where the stream is, once.
	bridges[0].expect(204, "POST", "/subscribe?session=s&last_event_id="+acked.id, "")
	for i := range bridges {
		bridges[i].expect(409, "POST", "/subscribe?session=s&last_event_id="+acked.id, "")
	}
	acked = other.expect(publish())
	bridges[1].expect(204, "POST", "/subscribe?session=s&last_event_id="+acked.id, "")

	// The other node is declared dead.
	instance := brokers[1].Broker.Health().Node
	for server.Client().Do(t.Context(), "ZSCORE", "lmq:leases", instance).Err() == nil {
		server.Client().Do(t.Context(), "ZADD", "lmq:leases", "XX", 1, instance)
	}
	stream = bridges[0].stream("session=s&filter=t", "Last-Event-ID", acked.id)
	stream.expect(publish())

	device := brokertest.Connect(t, brokers[0].Addr, codec.V5)
	device.Subscribe("d", 1)
	var replying sync.WaitGroup
	defer replying.Wait()
	replying.Go(func() {
		p := device.ExpectPublish("d", "x")
		device.Acknowledge(p)
		device.Publish(string(p.Properties.ResponseTopic), "y", 1, func(reply *codec.Publish) {
			reply.Properties = brokertest.Properties(codec.PropCorrelationData, string(p.Properties.CorrelationData))
		})
	})
	for brokers[1].Broker.Ready() != nil { // it joins again
		<-time.After(time.Millisecond)
	}
	if got := bridges[1].expect(200, "POST", "/request/d?timeout=20s", "x"); got != "y" {
		t.Errorf("the reply is %q", got)
	}
}

// BenchmarkStreams reports what a stream costs while nothing comes, client's side included, and what an event to all does.
func BenchmarkStreams(b *testing.B) {
	for _, n := range []int{1000} {
		b.Run(fmt.Sprint("streams=", n), func(b *testing.B) {
			s := brokertest.Start(b)
			bridge := mustBridge(b, s, func(o *httpbridge.Options) { o.Streams.PerAddress = n })
			u, _ := url.Parse(bridge.url)
			conns := make([]net.Conn, n)
			buf := make([]byte, 64<<10)
			before := heap()
			for i := range conns {
				c, err := net.Dial("tcp", u.Host)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				fmt.Fprintf(c, "GET /subscribe?filter=t HTTP/1.1\r\nHost: %s\r\n\r\n", u.Host)
				conns[i] = c
				for got := ""; !strings.Contains(got, "retry: 2000\n\n"); {
					k, err := c.Read(buf)
					if err != nil {
						b.Fatal(err)
					}
					got += string(buf[:k])
				}
			}
			each := float64(heap()-before) / float64(n)
			pub := brokertest.Connect(b, s.Addr, codec.V5)
			for b.Loop() {
				pub.Publish("t", "payload", 0)
				for _, c := range conns {
					if _, err := c.Read(buf); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(each, "B/stream")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/event")
		})
	}
}

// heap returns the bytes of heap and stacks in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
