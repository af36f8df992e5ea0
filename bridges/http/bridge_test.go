package httpbridge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/openapitest"
	"loopmq/metrics"
	"loopmq/rate"
	"loopmq/store/memory"
)

// users is an Authenticator and Authorizer: users have the password "right", and may do
// what they like below their own name, and below t/. Nobody has no name and may too.
type users struct{ asked chan *loopmq.ConnectRequest }

func (u users) Authenticate(_ context.Context, r *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	if u.asked != nil {
		u.asked <- r
	}
	switch {
	case r.AuthenticationMethod == "JWT" && string(r.AuthenticationData) == "token":
		return loopmq.Identity{Username: "jwt"}, nil, nil
	case !r.HasUsername && r.AuthenticationMethod == "":
		return loopmq.Identity{}, nil, nil
	case r.Username == "banned":
		return loopmq.Identity{}, nil, codec.NewError(codec.Banned, "banned")
	case string(r.Password) != "right":
		return loopmq.Identity{}, nil, codec.NewError(codec.BadUserNameOrPassword, "wrong password")
	}
	return loopmq.Identity{Username: r.Username}, nil, nil
}

func (users) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errors.New("never")
}

func (users) Authorize(_ context.Context, c *loopmq.ClientInfo, _ loopmq.Action, topic string, _ byte, _ bool) bool {
	return strings.HasPrefix(topic, "t/") || c.Username != "" && strings.HasPrefix(topic, c.Username+"/") || strings.HasPrefix(topic, "/")
}

// bridge is a Bridge of a broker of its own, on a free port.
type bridge struct {
	*Bridge
	t      *testing.T
	broker *brokertest.Server
	addr   string
	client *http.Client
	header http.Header // of each request

	document *openapitest.Document
}

func mustBridge(t *testing.T, o Options, options ...func(*loopmq.Options)) *bridge {
	t.Helper()
	s := brokertest.Start(t, options...)
	o.Broker = s.Broker
	if o.Settings == nil {
		o.Settings = &loopmq.Settings{Authenticator: users{}, Authorizer: users{}}
	}
	o.Logger = slog.New(slog.DiscardHandler)
	b := &bridge{Bridge: New(o), t: t, broker: s, client: &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}, header: http.Header{}, document: mustDocument(t)}
	addr, err := b.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = addr.String()
	t.Cleanup(func() {
		b.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

// do sends a request with headers, each "Name: value".
func (b *bridge) do(method, path, body string, headers ...string) (*http.Response, string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, "http://"+b.addr+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for name, values := range b.header {
		r.Header[name] = values
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Add(name, value)
		}
	}
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed && method != "OPTIONS" { // or there may be no such operation
		if err := b.document.Check(r, []byte(body), resp.StatusCode, resp.Header, text); err != nil {
			b.t.Error(err)
		}
	}
	return resp, string(text)
}

func (b *bridge) post(path, body string, headers ...string) (int, string) {
	b.t.Helper()
	resp, text := b.do("POST", path, body, append([]string{"Content-Type: application/json"}, headers...)...)
	return resp.StatusCode, text
}

func (b *bridge) refused(r metrics.HTTPReason) uint64 { return b.metrics.HTTPRefused[r].Get() }

func withoutID(text string) string {
	for {
		i := strings.Index(text, `"id":"`)
		if i < 0 {
			return text
		}
		text = text[:i] + text[i+len(`"id":"`)+32+2:]
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 2)
	for body, want := range map[string]struct {
		payload string
		check   func(*codec.Publish) bool
	}{
		`{"topic":"t/a","payload":"21.5 °C"}`:                                                                 {"21.5 °C", func(p *codec.Publish) bool { return p.QoS == 0 && !p.Retain }},
		`{"topic":"t/a","payload":"AP8=","payload_encoding":"base64","qos":1}`:                                {"\x00\xff", func(p *codec.Publish) bool { return p.QoS == 1 }},
		`{"topic":"t/a","payload":{"a": [1, null]},"payload_encoding":"json","qos":2}`:                        {`{"a": [1, null]}`, func(p *codec.Publish) bool { return p.QoS == 2 }},
		`{"topic":"t/a","payload":null,"payload_encoding":"json"}`:                                            {`null`, nil},
		`{"topic":"t/a","payload":""}` + "\n":                                                                 {"", nil},
		`{"topic":"t/a","payload":"x","clientid":"c","properties":{"user_properties":[["a","1"],["a","2"]]}}`: {"x", func(p *codec.Publish) bool { return len(p.Properties.UserProperties) == 2 }},
		`{"topic":"t/a","payload":"x","properties":{"payload_format_indicator":1,"message_expiry_interval":60,"content_type":"text/plain","response_topic":"r/t",
			"correlation_data":"AAE=","correlation_data_encoding":"base64","user_properties":{"b":"1","a":["2","3"]}}}`: {"x", func(p *codec.Publish) bool {
			q := &p.Properties
			return q.PayloadFormatIndicator == 1 && q.MessageExpiryInterval == 60 && string(q.ContentType) == "text/plain" && string(q.ResponseTopic) == "r/t" &&
				string(q.CorrelationData) == "\x00\x01" && len(q.UserProperties) == 3 && string(q.UserProperties[0].Key) == "b" && string(q.UserProperties[2].Value) == "3"
		}},
	} {
		status, text := b.post("/publish", body)
		if status != 200 || withoutID(text) != `{"status":"ok","matched":1}`+"\n" {
			t.Errorf("%s: %d %s", body, status, text)
			continue
		}
		p := sub.ExpectPublish("t/a", want.payload)
		if want.check != nil && !want.check(p) {
			t.Errorf("%s: %s", body, brokertest.Describe(p))
		}
		sub.Acknowledge(p)
	}
	status, text := b.post("/publish", `{"topic":"/nobody","payload":"x","qos":1}`)
	if status != 202 || withoutID(text) != `{"status":"no_matching_subscribers","matched":0,"reason_code":16,"message":"nobody is subscribed to the topic"}`+"\n" {
		t.Errorf("nobody subscribed: %d %s", status, text)
	}
}

func TestPublishRefused(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{BodyBytes: 2000, BulkMessages: 3, Forwarders: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, func(o *loopmq.Options) {
		o.Limits.PacketSize = 1000
		o.Limits.Address.Traffic.MessageRate = rate.Limit{PerSecond: 1, Burst: 5}
	})
	long := strings.Repeat("x", 1500)
	js := "Content-Type: application/json"
	for _, c := range []struct {
		what, method, path, body string
		status                   int
		detail                   string
		headers                  []string
	}{
		{"no JSON", "POST", "/publish", `{"topic":`, 400, "not the JSON", []string{js}},
		{"more behind", "POST", "/publish", `{"topic":"t/a","payload":"x"}{}`, 400, "behind", []string{js}},
		{"unknown field", "POST", "/publish", `{"topic":"t/a","payload":"x","Retained":true}`, 400, "Retained", []string{js}},
		{"topic twice", "POST", "/publish", `{"topic":"t/a","topic":"t/b","payload":"x"}`, 400, `\"topic\" comes twice`, []string{js}},
		{"topic twice, by an escape", "POST", "/publish", `{"topic":"t/a","t\u006fpic":"t/b","payload":"x"}`, 400, `\"topic\" comes twice`, []string{js}},
		{"topic in capitals", "POST", "/publish", `{"topic":"t/a","Topic":"t/b","payload":"x"}`, 400, "lower case", []string{js}},
		{"long s", "POST", "/publish", `{"topic":"t/a","payload":"x","qoſ":1}`, 400, "lower case", []string{js}},
		{"property twice", "POST", "/publish", `{"topic":"t/a","payload":"x","properties":{"content_type":"a","content_type":"b"}}`, 400, "properties: the field", []string{js}},
		{"topic twice, bulk", "POST", "/publish/bulk", `[{"topic":"t/a","topic":"t/b","payload":"x"}]`, 400, `"index":0`, []string{js}},
		{"topic twice, lines", "POST", "/publish/bulk", `{"topic":"t/a","payload":"x"}` + "\n" + `{"topic":"t/a","topic":"t/b","payload":"x"}`, 400, `"index":1`, []string{"Content-Type: application/x-ndjson"}},
		{"not UTF-8", "POST", "/publish", "{\"topic\":\"t/\xff\",\"payload\":\"x\"}", 400, "UTF-8", []string{js}},
		{"no topic", "POST", "/publish", `{"payload":"x"}`, 400, "topic is missing", []string{js}},
		{"no payload", "POST", "/publish", `{"topic":"t/a"}`, 400, "payload is missing", []string{js}},
		{"null payload", "POST", "/publish", `{"topic":"t/a","payload":null}`, 400, "payload is missing", []string{js}},
		{"number as payload", "POST", "/publish", `{"topic":"t/a","payload":1}`, 400, "payload", []string{js}},
		{"bad base64", "POST", "/publish", `{"topic":"t/a","payload":"*","payload_encoding":"base64"}`, 400, "base64", []string{js}},
		{"unknown encoding", "POST", "/publish", `{"topic":"t/a","payload":"*","payload_encoding":"hex"}`, 400, "hex", []string{js}},
		{"wildcard", "POST", "/publish", `{"topic":"t/+","payload":""}`, 400, "Topic Name", []string{js}},
		{"QoS 3", "POST", "/publish", `{"topic":"t/a","payload":"","qos":3}`, 400, "QoS", []string{js}},
		{"QoS 256", "POST", "/publish", `{"topic":"t/a","payload":"","qos":256}`, 400, "qos", []string{js}},
		{"expiry 0", "POST", "/publish", `{"topic":"t/a","payload":"","properties":{"message_expiry_interval":0}}`, 400, "message_expiry_interval", []string{js}},
		{"user property number", "POST", "/publish", `{"topic":"t/a","payload":"","properties":{"user_properties":{"a":1}}}`, 400, "user_properties", []string{js}},
		{"user property null", "POST", "/publish", `{"topic":"t/a","payload":"","properties":{"user_properties":{"a":null}}}`, 400, "user_properties", []string{js}},
		{"user properties text", "POST", "/publish", `{"topic":"t/a","payload":"","properties":{"user_properties":"a"}}`, 400, "user_properties", []string{js}},
		{"user properties pairs", "POST", "/publish", `{"topic":"t/a","payload":"","properties":{"user_properties":[1]}}`, 400, "user_properties", []string{js}},
		{"indicator 2", "POST", "/publish", `{"topic":"t/a","payload":"","properties":{"payload_format_indicator":2}}`, 400, "property", []string{js}},
		{"response topic with wildcard", "POST", "/publish", `{"topic":"t/a","payload":"","properties":{"response_topic":"a/#"}}`, 400, "property", []string{js}},
		{"reserved", "POST", "/publish", `{"topic":"$SYS/x","payload":""}`, 403, "not authorized", []string{js}},
		{"no right", "POST", "/publish", `{"topic":"bob/x","payload":""}`, 403, "not authorized", []string{js}},
		{"body too large", "POST", "/publish", `{"topic":"t/a","payload":"` + long + long + `"}`, 413, "2000 bytes, which http.body_size", []string{js}},
		{"packet too large", "POST", "/publish", `{"topic":"t/a","payload":"` + long + `"}`, 413, "packet_size", []string{js}},
		{"media type", "POST", "/publish", `{}`, 415, "text/plain", []string{"Content-Type: text/plain"}},
		{"no media type", "POST", "/publish", `{}`, 415, "Content-Type", nil},
		{"encoded", "POST", "/publish", `{}`, 415, "gzip", []string{js, "Content-Encoding: gzip"}},
		{"wrong password", "POST", "/publish", `{}`, 401, "wrong password", []string{"Authorization: Basic YWxpY2U6eA=="}},
		{"wrong token", "POST", "/publish", `{}`, 401, "wrong password", []string{"Authorization: Bearer x"}},
		{"wrong API key", "POST", "/publish", `{}`, 401, "wrong password", []string{"X-API-Key: alice.x"}},
		{"banned", "POST", "/publish", `{}`, 403, "banned", []string{"Authorization: Basic YmFubmVkOng="}},
		{"unknown scheme", "POST", "/publish", `{}`, 401, "allowed: Basic, Bearer", []string{"Authorization: Digest x"}},
		{"no scheme", "POST", "/publish", `{}`, 401, "allowed: Basic, Bearer", []string{"Authorization: alice"}},
		{"API key without a secret", "POST", "/publish", `{}`, 401, "ID.SECRET", []string{"X-API-Key: alice"}},
		{"API key, wrong, with dots", "POST", "/publish", `{}`, 401, "wrong password", []string{"X-API-Key: alice.right.x"}},
		{"no base64", "POST", "/publish", `{}`, 400, "base64", []string{"Authorization: Basic *"}},
		{"no colon", "POST", "/publish", `{}`, 400, "colon", []string{"Authorization: Basic YWxpY2U="}},
		{"two credentials", "POST", "/publish", `{}`, 400, "both", []string{"Authorization: Basic YWxpY2U6eA==", "X-API-Key: a.b"}},
		{"two lines", "POST", "/publish", `{}`, 400, "more than one", []string{"Authorization: Basic YWxpY2U6eA==", "Authorization: Basic YWxpY2U6eA=="}},
		{"ClientID with NUL", "POST", "/publish", `{}`, 400, "Client Identifier", []string{"Mqtt-Client-Id: a\xff"}},
		{"empty key", "POST", "/publish", `{"topic":"t/a","payload":""}`, 400, "Idempotency-Key", []string{js, `Idempotency-Key: ""`}},
		{"key with a space", "POST", "/publish", `{"topic":"t/a","payload":""}`, 400, "Idempotency-Key", []string{js, `Idempotency-Key: a b`}},
		{"long key", "POST", "/publish", `{"topic":"t/a","payload":""}`, 400, "Idempotency-Key", []string{js, `Idempotency-Key: ` + long[:256]}},
		{"key, no right", "POST", "/publish", `{"topic":"bob/x","payload":""}`, 403, "not authorized", []string{js, "Idempotency-Key: forbidden"}},
		{"method", "GET", "/publish", "", 405, "allowed: POST", nil},
		{"path", "POST", "/nowhere", "", 404, "/nowhere", nil},
		{"other Host", "POST", "/publish", `{}`, 403, "Host", []string{"Host: evil.example.com"}},
		{"other Origin", "POST", "/topics/t/a", `x`, 403, "origins", []string{"Origin: https://evil.example.com"}},
		{"cross-site", "POST", "/topics/t/a", `x`, 403, "origins", []string{"Sec-Fetch-Site: cross-site"}},
		{"bulk, no array", "POST", "/publish/bulk", `{}`, 400, "array", []string{js}},
		{"bulk, empty", "POST", "/publish/bulk", `[]`, 400, "no messages", []string{js}},
		{"bulk, cut", "POST", "/publish/bulk", `[{}`, 400, "array", []string{js}},
		{"bulk, more", "POST", "/publish/bulk", `[{}] x`, 400, "behind", []string{js}},
		{"bulk, too many", "POST", "/publish/bulk", `[1,2,3,4]`, 413, "3 messages", []string{js}},
		{"bulk, wrong one", "POST", "/publish/bulk", `[{"topic":"t/a","payload":""},{"topic":"t/a"}]`, 400, `"index":1`, []string{js}},
		{"bulk, no right to one", "POST", "/publish/bulk", `[{"topic":"t/a","payload":""},{"topic":"bob/a","payload":""}]`, 403, `"index":1`, []string{js}},
		{"bulk, two sorts", "POST", "/publish/bulk", `[{"topic":"t/+","payload":""},{"topic":"bob/a","payload":""}]`, 400, `"index":1`, []string{js}},
		{"bulk, key, no right", "POST", "/publish/bulk", `[{"topic":"bob/a","payload":""}]`, 403, `"index":0`, []string{js, "Idempotency-Key: forbidden"}},
		{"lines, too many", "POST", "/publish/bulk", "1\n2\n3\n4", 413, "3 messages", []string{"Content-Type: application/x-ndjson"}},
		{"lines, none", "POST", "/publish/bulk", "\n\r\n", 400, "no messages", []string{"Content-Type: application/x-ndjson"}},
		{"topic, no such parameter", "POST", "/topics/t/a?QoS=1", "", 400, "qos, retain", nil},
		{"topic, twice", "POST", "/topics/t/a?qos=1&qos=2", "", 400, "once", nil},
		{"topic, QoS 3", "POST", "/topics/t/a?qos=3", "", 400, "0, 1, 2", nil},
		{"topic, retain", "POST", "/topics/t/a?retain=1", "", 400, "true, false", nil},
		{"topic, query", "POST", "/topics/t/a?%zz", "", 400, "query", nil},
		{"topic, wildcard", "POST", "/topics/t/%23", "", 400, "Topic Name", nil},
		{"topic, NUL", "POST", "/topics/t/%00", "", 400, "Topic Name", nil},
		{"topic, none", "POST", "/topics/", "", 404, "/topics/", nil},
		{"topic, header", "POST", "/topics/t/a", "", 400, "Mqtt-Qos", []string{"Mqtt-Qos: 1"}},
		{"topic, header twice", "POST", "/topics/t/a", "", 400, "more than once", []string{"Mqtt-Response-Topic: a", "Mqtt-Response-Topic: b"}},
		{"topic, indicator", "POST", "/topics/t/a", "", 400, "0, 1", []string{"Mqtt-Payload-Format-Indicator: 2"}},
		{"topic, expiry", "POST", "/topics/t/a", "", 400, "4294967295", []string{"Mqtt-Message-Expiry-Interval: 0"}},
		{"topic, correlation", "POST", "/topics/t/a", "", 400, "base64", []string{"Mqtt-Correlation-Data: *"}},
		{"topic, user property", "POST", "/topics/t/a", "", 400, "name=value", []string{"Mqtt-User-Property: a"}},
		{"topic, user property encoding", "POST", "/topics/t/a", "", 400, "percent", []string{"Mqtt-User-Property: a=%zz"}},
		{"topic, user property name", "POST", "/topics/t/a", "", 400, "percent", []string{"Mqtt-User-Property: %ff=a"}},
		{"no retained", "GET", "/topics/t/none", "", 404, "no retained message", nil},
		{"no right to read", "GET", "/topics/bob/a", "", 403, "not authorized", nil},
		{"delete, parameter", "DELETE", "/topics/t/a?retain=true", "", 400, "allowed: qos", nil},
		{"delete, no right", "DELETE", "/topics/bob/a", "", 403, "not authorized", nil},
	} {
		resp, text := b.do(c.method, c.path, c.body, append(c.headers, "X-Forwarded-For: 192.0.2."+string(rune('1'+len(c.what)%8)))...)
		var p bridgeProblem
		if err := json.Unmarshal([]byte(text), &p); err != nil || resp.StatusCode != c.status || p.Status != c.status || resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(text, strings.ReplaceAll(c.detail, `"`, `"`)) {
			t.Errorf("%s: %d %s, want %d and %q", c.what, resp.StatusCode, text, c.status, c.detail)
		}
		if challenge := resp.Header["Www-Authenticate"]; (c.status == 401) != (len(challenge) == 2) {
			t.Errorf("%s: WWW-Authenticate %q", c.what, challenge)
		}
	}
	for reason, want := range map[metrics.HTTPReason]uint64{metrics.HTTPCredentials: 7, metrics.HTTPHost: 1, metrics.HTTPOrigin: 2, metrics.HTTPMediaType: 3, metrics.HTTPMethod: 1, metrics.HTTPTooLarge: 4} {
		if got := b.refused(reason); got != want {
			t.Errorf("%s: counted %d, want %d", reason, got, want)
		}
	}
	for range 5 {
		b.do("POST", "/topics/t/a", "", "X-Forwarded-For: 203.0.113.1")
	}
	resp, text := b.do("POST", "/topics/t/a", "", "X-Forwarded-For: 203.0.113.1")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(text, `"reason_code":150`) {
		t.Errorf("too many: %d, Retry-After %q, %s", resp.StatusCode, resp.Header.Get("Retry-After"), text)
	}
	if resp, _ = b.do("POST", "/topics/t/a", "", "X-Forwarded-For: 203.0.113.2"); resp.StatusCode != 202 {
		t.Errorf("from another address: %d", resp.StatusCode)
	}
}

func TestIdentities(t *testing.T) {
	t.Parallel()
	asked := make(chan *loopmq.ConnectRequest, 100)
	b := mustBridge(t, Options{Settings: &loopmq.Settings{Authenticator: users{asked}, Authorizer: users{}}, Identities: 3})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("#", 0)
	publish := func(topic string, header string) {
		t.Helper()
		if resp, text := b.do("POST", "/topics/"+topic, "x", header); resp.StatusCode != 200 {
			t.Fatalf("%s: %d %s", header, resp.StatusCode, text)
		}
		sub.ExpectPublish(topic, "x")
	}
	for range 3 {
		publish("alice/a", "Authorization: Basic YWxpY2U6cmlnaHQ=")
		publish("alice/a", "X-API-Key: alice.right")
		publish("jwt/a", "authorization: bearer token")
	}
	if len(asked) != 3 {
		t.Errorf("asked %d times, want once for each", len(asked))
	}
	if r := <-asked; r.ClientID == "" || r.Listener != "http" || r.Username != "alice" || !strings.HasPrefix(r.RemoteAddr.String(), "127.0.0.1:") {
		t.Errorf("got %+v", r)
	}
	publish("t/a", "Mqtt-Client-Id: me") // the fourth, which takes the place of the first
	publish("alice/a", "Authorization: Basic YWxpY2U6cmlnaHQ=")
	if len(asked) != 4 {
		t.Errorf("asked %d times, want 4", len(asked))
	}
	if n := b.metrics.HTTPIdentities.Get(); n != 3 {
		t.Errorf("%d identities, want 3", n)
	}
	b.Forget()
	publish("t/a", "Mqtt-Client-Id: me")
	if len(asked) != 5 {
		t.Errorf("asked %d times, want 5", len(asked))
	}
	if n := b.broker.Broker.DisconnectWhere(func(c *loopmq.ClientInfo) bool { return c.ClientID == "me" }, codec.AdministrativeAction); n != 1 {
		t.Errorf("%d disconnected", n)
	}
	publish("t/a", "Mqtt-Client-Id: me")
	if len(asked) != 6 {
		t.Errorf("asked %d times, want 6", len(asked))
	}
	publish("a.l.ice/a", "X-API-Key: a.l.ice.right")
}

func TestBulk(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	one := func(topic string) string { return `{"topic":"` + topic + `","payload":"x","qos":1}` }
	none := `{"status":"no_matching_subscribers","matched":0,"reason_code":16,"message":"nobody is subscribed to the topic"}`
	for _, c := range []struct {
		contentType, body string
		status            int
		want              string
	}{
		{"application/json", " [" + one("t/1") + "," + one("t/2") + "]\n", 200, `{"results":[{"status":"ok","matched":1},{"status":"ok","matched":1}]}`},
		{"application/x-ndjson", one("t/1") + "\r\n\n" + one("t/2"), 200, `{"results":[{"status":"ok","matched":1},{"status":"ok","matched":1}]}`},
		{"application/jsonl; charset=utf-8", one("t/1") + "\n" + one("/n") + "\n" + one("t/2") + "\n", 202, `{"results":[{"status":"ok","matched":1},` + none + `,{"status":"ok","matched":1}]}`},
	} {
		resp, text := b.do("POST", "/publish/bulk", c.body, "Content-Type: "+c.contentType)
		if resp.StatusCode != c.status || withoutID(text) != c.want+"\n" {
			t.Errorf("%s: %d %s", c.body, resp.StatusCode, text)
		}
		sub.Acknowledge(sub.ExpectPublish("t/1", "x"))
		sub.Acknowledge(sub.ExpectPublish("t/2", "x"))
	}
	sub.ExpectNothing()
}

func TestEMQX(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	body := `{"topic":"t/1","clientid":"c","payload":"eA==","payload_encoding":"base64","qos":1,"retain":false,"properties":{"user_properties":{"foo":"bar"},"content_type":"text/plain"}}`
	for _, c := range []struct {
		path, body string
		status     int
		want       string
		headers    []string
	}{
		{"/api/v5/publish", body, 200, `{}`, nil},
		{"/api/v5/publish", `{"topic":"/n","payload":"x"}`, 202, `{"reason_code":16,"message":"no_matching_subscribers"}`, nil},
		{"/api/v5/publish", `{"topic":"t/+","payload":"x"}`, 400, `{"code":"BAD_REQUEST","message":"not a valid Topic Name","reason_code":144}`, nil},
		{"/api/v5/publish", `{"payload":"x"}`, 400, `{"code":"BAD_REQUEST","message":"topic is missing"}`, nil},
		{"/api/v5/publish", body, 401, `{"code":"BAD_API_KEY_OR_SECRET","message":"not authenticated: wrong password","reason_code":134}`, []string{"Authorization: Basic a2V5Ong="}},
		{"/api/v5/publish/bulk", "[" + body + `]`, 200, `[{}]`, []string{"Authorization: Basic a2V5OnJpZ2h0"}},
		{"/api/v5/publish/bulk", "[" + body + `,{"topic":"/n","payload":""}]`, 202, `[{},{"reason_code":16,"message":"no_matching_subscribers"}]`, nil},
		{
			"/api/v5/publish/bulk", "[" + body + `,{"topic":"t/+","payload":""}]`, 400,
			`{"code":"BAD_REQUEST","message":"nothing was published: some of the messages can't be","reason_code":144,"errors":[{"index":1,"status":400,"detail":"not a valid Topic Name","reason_code":144}]}`, nil,
		},
	} {
		status, text := b.post(c.path, c.body, c.headers...)
		if text = strings.ReplaceAll(withoutIDs(text), "\n", ""); status != c.status || text != c.want {
			t.Errorf("%s %s: %d %s, want %s", c.path, c.body, status, text, c.want)
		}
		if status < 400 && strings.Contains(c.body, "t/1") {
			p := sub.ExpectPublish("t/1", "x")
			sub.Acknowledge(p)
			if string(p.Properties.UserProperties[0].Value) != "bar" || string(p.Properties.ContentType) != "text/plain" {
				t.Errorf("got %s", brokertest.Describe(p))
			}
		}
	}
	sub.ExpectNothing()
}

// withoutIDs is withoutID for what has nothing behind the id.
func withoutIDs(text string) string {
	for {
		i := strings.Index(text, `"id":"`)
		if i < 0 {
			return text
		}
		text = text[:i] + text[i+len(`"id":"`)+32+1:]
	}
}

func TestTopics(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("#", 1)
	for path, topic := range map[string]string{
		"/topics/t/a":           "t/a",
		"/topics/t/a%2Fb":       "t/a/b",
		"/topics/t//b/":         "t//b/",
		"/topics//t":            "/t",
		"/topics/t/%C3%A9%20+x": "t/é +x",
		"/topics/t/..%2Fb":      "t/../b",
		"/topics/t/%25":         "t/%",
	} {
		if strings.Contains(topic, "+") { // a wildcard
			continue
		}
		resp, text := b.do("POST", path, "x")
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
			continue
		}
		sub.ExpectPublish(topic, "x")
	}
	payload := "\x00\xff{}"
	resp, text := b.do("POST", "/topics/t/r%C3%A9?qos=1&retain=true", payload, "Content-Type: application/x.y; a=b", "Mqtt-Payload-Format-Indicator: 1", "Mqtt-Message-Expiry-Interval: 100",
		"Mqtt-Response-Topic: r/%C3%A9", "Mqtt-Correlation-Data: AAE=", "Mqtt-User-Property: a=1%2C2, b=%20", "Mqtt-User-Property: a==")
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	p := sub.ExpectPublish("t/ré", payload)
	q := &p.Properties
	if p.QoS != 1 || string(q.ContentType) != "application/x.y; a=b" || q.PayloadFormatIndicator != 1 || q.MessageExpiryInterval != 100 || string(q.ResponseTopic) != "r/é" ||
		string(q.CorrelationData) != "\x00\x01" || len(q.UserProperties) != 3 || string(q.UserProperties[0].Value) != "1,2" || string(q.UserProperties[1].Value) != " " || string(q.UserProperties[2].Value) != "=" {
		t.Errorf("got %s", brokertest.Describe(p))
	}
	sub.Acknowledge(p)
	for _, method := range []string{"GET", "HEAD"} {
		resp, text = b.do(method, "/topics/t/r%C3%A9", "")
		want := payload
		if method == "HEAD" {
			want = ""
		}
		if resp.StatusCode != 200 || text != want || resp.ContentLength != int64(len(payload)) {
			t.Errorf("%s: %d %q, %d bytes", method, resp.StatusCode, text, resp.ContentLength)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/x.y; a=b", "Mqtt-Qos": "1", "Mqtt-Payload-Format-Indicator": "1", "Mqtt-Message-Expiry-Interval": "100", "Mqtt-Response-Topic": "r/%C3%A9",
			"Mqtt-Correlation-Data": "AAE=", "Mqtt-User-Property": "a=1%2C2,b=%20,a=%3D", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'",
		} {
			if got := strings.Join(resp.Header[name], ","); got != want {
				t.Errorf("%s: header %s %q, want %q", method, name, got, want)
			}
		}
	}
	resp, _ = b.do("DELETE", "/topics/t/r%C3%A9", "")
	sub.Acknowledge(sub.ExpectPublish("t/ré", ""))
	if again, _ := b.do("GET", "/topics/t/r%C3%A9", ""); resp.StatusCode != 204 || again.StatusCode != 404 {
		t.Errorf("DELETE: %d, GET afterwards: %d", resp.StatusCode, again.StatusCode)
	}
	for contentType, want := range map[string]string{ // of MQTT, of HTTP
		"": "application/octet-stream", "no type": "application/octet-stream", "a/b\r\nX: y": "application/octet-stream", "text/é": "application/octet-stream", "text/html": "text/html",
	} {
		c := mustCaller(t, b)
		m := &loopmq.Message{TopicName: "t/c", Payload: []byte("x"), Retain: true, ContentType: contentType}
		if strings.Contains(contentType, "\r") {
			m.ContentType = "a/b" // a property has no control characters in it
		}
		if _, err := c.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		resp, _ := b.do("GET", "/topics/t/c", "")
		if strings.Contains(contentType, "\r") {
			want = "a/b"
		}
		if got := resp.Header.Get("Content-Type"); got != want {
			t.Errorf("Content Type %q: got %q, want %q", contentType, got, want)
		}
		if lost := want == "application/octet-stream" && contentType != ""; lost != (resp.Header.Get("Mqtt-Content-Type") != "") {
			t.Errorf("Content Type %q: Mqtt-Content-Type %q", contentType, resp.Header.Get("Mqtt-Content-Type"))
		}
	}
	b.do("POST", "/topics/t/f?retain=true", "a=b", "Content-Type: application/x-www-form-urlencoded", "Mqtt-Payload-Format-Indicator: 1")
	if resp, _ := b.do("GET", "/topics/t/f", ""); resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("what curl says of any body is taken for a Content Type: %q", resp.Header.Get("Content-Type"))
	}
}

func mustCaller(t *testing.T, b *bridge) *loopmq.Caller {
	t.Helper()
	c, err := b.broker.Broker.Authenticate(t.Context(), &loopmq.ConnectRequest{ClientID: "test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	body := `{"topic":"t/a","payload":"x","qos":1}`
	send := func(path, body, key string, more ...string) (*http.Response, string) {
		t.Helper()
		return b.do("POST", path, body, append([]string{"Content-Type: application/json", "Idempotency-Key: " + key}, more...)...)
	}
	first, text := send("/publish", body, `"k1"`)
	again, same := send("/publish", `{ "qos":1, "topic":"t/a", "payload":"x"}`, "k1")
	if first.StatusCode != 200 || again.StatusCode != 200 || text != same || first.Header.Get("Idempotency-Replayed") != "" || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%d %s, then %d %s", first.StatusCode, text, again.StatusCode, same)
	}
	if other, text := send("/publish", `{"topic":"t/a","payload":"y","qos":1}`, "k1"); other.StatusCode != 422 || b.refused(metrics.HTTPKeyReused) != 1 {
		t.Errorf("another message: %d %s", other.StatusCode, text)
	}
	if other, _ := send("/publish", body, "k1", "Authorization: Basic YWxpY2U6cmlnaHQ="); other.StatusCode != 200 || other.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("another user: %d", other.StatusCode)
	}
	for range 2 {
		sub.Acknowledge(sub.ExpectPublish("t/a", "x"))
	}
	sub.ExpectNothing()
	many := "[" + body + `,{"topic":"t/b","payload":"x"}]`
	_, text = send("/publish/bulk", many, "k2")
	if again, same := send("/publish/bulk", many, "k2"); again.StatusCode != 200 || text != same || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("%s, then %d %s", text, again.StatusCode, same)
	}
	if other, _ := send("/publish/bulk", "["+body+"]", "k2"); other.StatusCode != 422 {
		t.Errorf("fewer: %d", other.StatusCode)
	}
	sub.Acknowledge(sub.ExpectPublish("t/a", "x"))
	sub.ExpectPublish("t/b", "x")
	sub.ExpectNothing()
	release := b.keys.take("", "k3")
	if busy, text := send("/publish", body, "k3"); busy.StatusCode != 409 || busy.Header.Get("Retry-After") != "1" || b.refused(metrics.HTTPKeyInUse) != 1 {
		t.Errorf("in use: %d %s", busy.StatusCode, text)
	}
	release()
	if free, _ := send("/publish", body, "k3"); free.StatusCode != 200 {
		t.Errorf("not in use any more: %d", free.StatusCode)
	}
	sub.Acknowledge(sub.ExpectPublish("t/a", "x"))
	if err := new(note).unmarshal([]byte("short")); err == nil {
		t.Error("a short note is read")
	}
	if err := new(note).unmarshal(bytes.Repeat([]byte{0xff}, fingerprintSize+idSize+1)); err == nil {
		t.Error("a note without a number is read")
	}
}

// Who sends bodies that don't come holds no room that others need: what is announced isn't held, and of what has come a
// user holds a share.
func TestBodiesOfOneUser(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{BodyBytes: 64 << 10, BodiesBytes: 256 << 10, Timeout: 20 * time.Second})
	stall := func(length string, sent int) {
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST /topics/bob/x HTTP/1.1\r\nHost: %s\r\nAuthorization: Basic %s\r\n%s\r\n\r\n%s",
			b.addr, base64.StdEncoding.EncodeToString([]byte("bob:right")), length, strings.Repeat("x", sent))
	}
	held := func() int64 {
		b.bodies.mu.Lock()
		defer b.bodies.mu.Unlock()
		return b.bodies.mu.all
	}
	for range 8 {
		stall("Transfer-Encoding: chunked", 0)
		stall("Content-Length: 65536", 1)
	}
	until := func(what string, cond func() bool) {
		t.Helper()
		for late := time.After(20 * time.Second); !cond(); {
			select {
			case <-late:
				t.Fatalf("waited in vain for %s", what)
			case <-time.After(time.Millisecond):
			}
		}
	}
	until("bodies under way", func() bool { return held() == 16*bodyStep })
	stall("Content-Length: 65536", 60000) // is refused: bob has his share
	until("a refusal", func() bool { return b.refused(metrics.HTTPBusy) == 1 })
	for range 3 {
		if status, text := b.post("/topics/t/a", strings.Repeat("x", 60000), "Content-Type: text/plain"); status != 202 {
			t.Errorf("another: %d %s", status, text)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{Requests: 1, BodyBytes: 1000, BodiesBytes: 1000, Timeout: 20 * time.Second})
	b.underWay.Add(1)
	resp, _ := b.do("POST", "/topics/t/a", "x")
	b.underWay.Add(-1)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("too many requests: %d", resp.StatusCode)
	}
	b.bodies.take("other", 995)
	resp, _ = b.do("POST", "/topics/t/a", "123456")
	b.bodies.give("other", 995)
	if resp.StatusCode != 503 || b.refused(metrics.HTTPBusy) != 2 {
		t.Errorf("too many bytes: %d", resp.StatusCode)
	}
	r, _ := http.NewRequest("POST", "http://"+b.addr+"/topics/t/a", io.MultiReader(strings.NewReader(strings.Repeat("x", 600)), strings.NewReader(strings.Repeat("x", 600)))) // chunked
	if resp, err := b.client.Do(r); err != nil || resp.StatusCode != 413 {
		t.Errorf("chunks: %v, %v", resp, err)
	}
	r, _ = http.NewRequest("POST", "http://"+b.addr+"/topics/t/a", io.MultiReader(strings.NewReader("xy")))
	if resp, err := b.client.Do(r); err != nil || resp.StatusCode != 202 {
		t.Errorf("chunks: %v, %v", resp, err)
	}
	if n := b.bodies.mu.all; n != 0 || len(b.bodies.mu.of) != 0 {
		t.Errorf("%d bytes under way", n)
	}
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /topics/t/a HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 32<<10)+"\r\n\r\n")
	if line, _ := io.ReadAll(conn); !bytes.HasPrefix(line, []byte("HTTP/1.1 431 ")) {
		t.Errorf("a large header: %.40q", line)
	}
}

// A body that doesn't come is a fault of the client [RFC 9110, 15.5.9].
func TestBodyThatDoesNotCome(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{Timeout: time.Second})
	for _, head := range []string{"/publish HTTP/1.1\r\nContent-Length: 5", "/api/v5/publish HTTP/1.1\r\nContent-Length: 5", "/publish HTTP/1.1\r\nTransfer-Encoding: chunked"} {
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST "+head+"\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n")
		if answer, _ := io.ReadAll(conn); !bytes.HasPrefix(answer, []byte("HTTP/1.1 408 ")) || !bytes.Contains(answer, []byte("within 1s")) {
			t.Errorf("%s: %s", head, answer)
		}
	}
}

// A broker that has shut down doesn't leave requests without an answer.
func TestBrokerThatHasStopped(t *testing.T) {
	t.Parallel()
	st := memory.New(memory.Options{})
	defer st.Close()
	broker, err := loopmq.New(loopmq.Options{Store: st, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	b := New(Options{Broker: broker, Logger: slog.New(slog.DiscardHandler)})
	publish := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		b.ServeHTTP(w, httptest.NewRequest("POST", "http://localhost/topics/t/a?qos=1", strings.NewReader("x")))
		return w
	}
	if w := publish(); w.Code != 202 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if err := broker.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if w := publish(); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		b.Forget()
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{Origins: []string{"https://app.example.com", "https://*.example.org"}})
	for origin, allowed := range map[string]bool{
		"https://app.example.com": true, "https://a.b.example.org": true, "https://example.org": false, "http://app.example.com": false, "null": false,
		"https://evilexample.org": false, "http://" + b.addr: true,
	} {
		resp, _ := b.do("OPTIONS", "/publish", "", "Origin: "+origin, "Access-Control-Request-Method: POST")
		listed := allowed && !strings.Contains(origin, "127")
		if (resp.StatusCode == 204) != listed || (resp.Header.Get("Access-Control-Allow-Origin") == origin) != listed {
			t.Errorf("%s: %d %v", origin, resp.StatusCode, resp.Header)
		}
		resp, _ = b.do("POST", "/topics/t/a", "", "Origin: "+origin, "Sec-Fetch-Site: cross-site")
		if (resp.StatusCode == 202) != allowed || !slices.Contains(resp.Header["Vary"], "Origin") || listed != (resp.Header.Get("Access-Control-Expose-Headers") != "") {
			t.Errorf("%s: %d %v", origin, resp.StatusCode, resp.Header)
		}
	}
	if resp, _ := mustBridge(t, Options{Origins: []string{"*"}}).do("POST", "/topics/t/a", "", "Origin: https://any.example"); resp.StatusCode != 202 {
		t.Errorf("*: %d", resp.StatusCode)
	}
}

func TestForwardedFor(t *testing.T) {
	t.Parallel()
	b := &Bridge{opts: Options{Forwarders: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}}}
	for _, c := range []struct{ peer, header, want string }{
		{"192.0.2.1:5", "203.0.113.5", "192.0.2.1:5"}, // who isn't a proxy of ours
		{"10.0.0.1:5", "", "10.0.0.1:5"},
		{"10.0.0.1:5", "203.0.113.5", "203.0.113.5:0"},
		{"10.0.0.1:5", "6.6.6.6, 203.0.113.5", "203.0.113.5:0"},
		{"10.0.0.1:5", "203.0.113.5, 10.1.1.1", "203.0.113.5:0"},
		{"10.0.0.1:5", "203.0.113.5:77", "203.0.113.5:77"},
		{"[::1]:5", "[2001:db8::1]", "[2001:db8::1]:0"},
		{"10.0.0.1:5", "203.0.113.5, unknown", "10.0.0.1:5"},
		{"[::ffff:10.0.0.1]:5", "203.0.113.5", "203.0.113.5:0"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{}}
		if c.header != "" {
			r.Header.Set("X-Forwarded-For", c.header)
		}
		if got, err := b.clientAddr(r); err != nil || got.String() != c.want {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	if _, err := b.clientAddr(&http.Request{RemoteAddr: "@"}); err == nil {
		t.Error("no address is one")
	}
}

func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	asked := make(chan *loopmq.ConnectRequest, 10)
	o := Options{Settings: &loopmq.Settings{Authenticator: users{asked}}, ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	b := mustBridge(t, o)
	send := func(b *bridge, head string) string {
		t.Helper()
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, head+"POST /topics/t/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		text, _ := io.ReadAll(conn)
		return string(text)
	}
	if text := send(b, "PROXY TCP4 203.0.113.9 127.0.0.1 4000 80\r\n"); !strings.HasPrefix(text, "HTTP/1.1 202") {
		t.Errorf("got %q", text)
	} else if r := <-asked; r.RemoteAddr.String() != "203.0.113.9:4000" {
		t.Errorf("from %v", r.RemoteAddr)
	}
	if text := send(b, ""); strings.HasPrefix(text, "HTTP/1.1 2") {
		t.Errorf("without a header: %q", text)
	}
	o.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	other := mustBridge(t, o)
	for range 2 { // one that is refused doesn't end the listener
		if text := send(other, "PROXY TCP4 203.0.113.9 127.0.0.1 4000 80\r\n"); text != "" {
			t.Errorf("from elsewhere: %q", text)
		}
	}
}

// Connections count at their addresses, with those of MQTT clients. One too many is told so, and those that come while too many
// wait for that are closed.
func TestConnectionsOfAnAddress(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Forwarders: []netip.Prefix{netip.MustParsePrefix("203.0.113.99/32")}},
		func(o *loopmq.Options) { o.Limits.Address.Connections = 2 })
	dial := func(from string) (net.Conn, *bufio.Reader) {
		t.Helper()
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, "PROXY TCP4 "+from+" 127.0.0.1 4000 80\r\n")
		return conn, bufio.NewReader(conn)
	}
	get := func(conn net.Conn, r *bufio.Reader) *http.Response {
		t.Helper()
		_, _ = io.WriteString(conn, "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp
	}
	first, firstReader := dial("203.0.113.1")
	second, secondReader := dial("203.0.113.1")
	for range 2 {
		if got := get(first, firstReader); got.StatusCode != 200 {
			t.Fatalf("the first: %s", got.Status)
		}
		if got := get(second, secondReader); got.StatusCode != 200 {
			t.Fatalf("the second: %s", got.Status)
		}
	}
	third, thirdReader := dial("203.0.113.1")
	if got := get(third, thirdReader); got.StatusCode != 429 || got.Header.Get("Retry-After") == "" || !got.Close || got.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("the third: %s %v", got.Status, got.Header)
	}
	if _, err := thirdReader.ReadByte(); err != io.EOF {
		t.Errorf("the third stays: %v", err)
	}
	for range 3 {
		if conn, r := dial("203.0.113.99"); get(conn, r).StatusCode != 200 {
			t.Error("a proxy is refused")
		}
	}
	if conn, r := dial("203.0.113.2"); get(conn, r).StatusCode != 200 {
		t.Error("another address is refused")
	}
	first.Close()
	for { // until that is noticed
		conn, r := dial("203.0.113.1")
		if got := get(conn, r); got.StatusCode == 200 {
			break
		}
		conn.Close()
	}
	var waiting []func() bool
	for range 40 { // of which 16 may wait
		conn, r := dial("203.0.113.1")
		defer conn.Close()
		waiting = append(waiting, func() bool {
			_, _ = io.WriteString(conn, "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
			resp, err := http.ReadResponse(r, nil)
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		})
	}
	answered := 0
	for _, isAnswered := range waiting {
		if isAnswered() {
			answered++
		}
	}
	if answered == len(waiting) {
		t.Errorf("all of %d connections were answered", answered)
	}
	if got := b.refused(metrics.HTTPRate); got < 1 {
		t.Errorf("counted %d as refused", got)
	}
}

// curl speaks HTTP/1.1, and HTTP/2 without TLS.
func TestCurl(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	for _, args := range [][]string{
		{"-d", `{"topic":"t/a","payload":"x","qos":1}`, "-H", "Content-Type: application/json", "http://" + b.addr + "/publish"},
		{"--http2-prior-knowledge", "--json", `{"topic":"t/a","payload":"x","qos":1}`, "http://" + b.addr + "/publish"},
		{"--http2-prior-knowledge", "-u", "alice:right", "-d", "x", "http://" + b.addr + "/topics/t/a?qos=1"},
		{"-u", "alice:right", "--data-binary", "x", "-H", "Expect: 100-continue", "http://" + b.addr + "/topics/t/a?qos=1"},
		{"-T", "-", "-X", "POST", "http://" + b.addr + "/topics/t/a?qos=1"}, // chunked
	} {
		cmd := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "--fail", "-w", " %{http_code} %{http_version}"}, args...)...)
		cmd.Stdin = strings.NewReader("x")
		out, err := cmd.CombinedOutput()
		version := "1.1"
		if args[0] == "--http2-prior-knowledge" {
			version = "2"
		}
		if text := string(out); err != nil || !strings.Contains(text, `"status":"ok"`) || !strings.HasSuffix(text, " 200 "+version) {
			t.Errorf("%q: %v, %s", args, err, text)
			continue
		}
		sub.Acknowledge(sub.ExpectPublish("t/a", "x"))
	}
}
