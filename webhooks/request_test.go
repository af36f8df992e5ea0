package webhooks

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq/codec"
)

// sent returns a request with its body.
func sent(t *testing.T, e *Endpoint, records ...record) (*http.Request, string) {
	t.Helper()
	var all [][]byte
	for _, r := range records {
		all = append(all, r.encode())
	}
	req, err := e.Request(t.Context(), all, happened)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	return req, string(body)
}

func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(got), &a); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatalf("%v: %s", err, want)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// aMessage is an event of a message with a payload and a Content Type.
func aMessage(payload, contentType string) record {
	return record{
		id: [16]byte{1}, kind: "message.published", at: happened, node: "node 1", clientID: "c1", topicName: []byte("a/b"), payload: []byte(payload), qos: 1,
		properties: properties(func(p *codec.Properties) {
			if contentType != "" {
				p.ContentType = []byte(contentType)
				p.Set(codec.PropContentType)
			}
		}),
	}
}

func TestStructured(t *testing.T) {
	req, body := sent(t, endpoint(t, func(e *Endpoint) { e.Source = "https://mqtt.example/broker" }), full())
	if got := req.Header.Get("Content-Type"); got != "application/cloudevents+json; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	sameJSON(t, body, `{
		"specversion": "1.0", "id": "010200000000000000000000000000ff", "source": "https://mqtt.example/broker/node-1", "type": "io.loopmq.message.published",
		"subject": "a/b", "time": "2026-11-22T13:00:00.123456789Z", "clientid": "sensor-7", "username": "ada", "publisher": "other", "qos": 1,
		"retain": true, "messageexpiry": "4294967295", "packetid": 65535, "reason": "queue_full", "contenttype": "application/json",
		"responsetopic": "a/reply", "correlationdata": "AP8=", "userproperties": "[[\"k\",\"v\"],[\"k\",\"w\"]]",
		"datacontenttype": "application/json", "data": {"t": 21.5}}`)
}

// What a payload becomes, by what it is, what its Content Type says, and what the endpoint wants.
func TestPayloads(t *testing.T) {
	const event = `"specversion":"1.0","id":"01000000000000000000000000000000","source":"loopmq/node%201","type":"io.loopmq.message.published",` +
		`"subject":"a/b","time":"2026-11-22T13:00:00.123456789Z","clientid":"c1","qos":1,"retain":false`
	for _, c := range []struct {
		mode                       Payload
		payload, contentType, want string
	}{
		{PayloadJSON, `{"t":21.5}`, "", `"datacontenttype":"application/json","data":{"t":21.5}`},
		{PayloadJSON, ` [1, 18446744073709551615] `, "", `"datacontenttype":"application/json","data": [1, 18446744073709551615] `},
		{PayloadJSON, `21.5`, "application/senml+json", `"datacontenttype":"application/senml+json","data":21.5`},
		{PayloadJSON, `{"t":`, "", `"datacontenttype":"application/octet-stream","data_base64":"eyJ0Ijo="`},
		{PayloadJSON, `{"t":`, "application/json", `"datacontenttype":"application/octet-stream","data_base64":"eyJ0Ijo="`},
		{PayloadJSON, "\"\xff\"", "", `"datacontenttype":"application/octet-stream","data_base64":"Iv8i"`},
		{PayloadJSON, "", "", `"datacontenttype":"application/octet-stream","data_base64":""`},
		{PayloadJSON, "\x00", "image/png", `"datacontenttype":"image/png","data_base64":"AA=="`},
		{PayloadText, `warm <&> "x"`, "", `"datacontenttype":"text/plain; charset=utf-8","data":"warm \u003c\u0026\u003e \"x\""`},
		{PayloadText, `21`, "application/json", `"datacontenttype":"text/plain; charset=utf-8","data":"21"`},
		{PayloadText, `a,b`, "text/csv", `"datacontenttype":"text/csv","data":"a,b"`},
		{PayloadText, "\xff", "", `"datacontenttype":"application/octet-stream","data_base64":"/w=="`},
		{PayloadBase64, `{}`, "application/json", `"datacontenttype":"application/json","data_base64":"e30="`},
		{PayloadBase64, `{}`, "", `"datacontenttype":"application/octet-stream","data_base64":"e30="`},
		{PayloadBase64, `{}`, "rather long ago", `"datacontenttype":"application/octet-stream","data_base64":"e30="`},
	} {
		_, body := sent(t, endpoint(t, func(e *Endpoint) { e.Payload = c.mode }), aMessage(c.payload, c.contentType))
		want := "{" + event + ","
		if c.contentType != "" {
			want += `"contenttype":"` + c.contentType + `",`
		}
		if want += c.want + "}"; body != want {
			t.Errorf("%s of %q (%s):\ngot  %s\nwant %s", c.mode, c.payload, c.contentType, body, want)
		}
		if !json.Valid([]byte(body)) {
			t.Errorf("%s of %q isn't JSON", c.mode, c.payload)
		}
	}
	none := endpoint(t, func(e *Endpoint) { e.Payload = PayloadNone })
	if _, body := sent(t, none, aMessage("x", "")); body != "{"+event+"}" {
		t.Errorf("none: got %s", body)
	}
}

func TestBinary(t *testing.T) {
	e := endpoint(t, func(e *Endpoint) { e.Mode = Binary })
	r := full()
	r.topicName, r.clientID = []byte("räume/1 %\"x\"\n"), "c\r\n1"
	req, body := sent(t, e, r)
	if body != `{"t":21.5}` {
		t.Errorf("body %q", body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Ce-Specversion": "1.0", "Ce-Id": "010200000000000000000000000000ff", "Ce-Source": "loopmq/node-1",
		"Ce-Type": "io.loopmq.message.published", "Ce-Subject": "r%C3%A4ume/1%20%25%22x%22%0A", "Ce-Clientid": "c%0D%0A1", "Ce-Qos": "1", "Ce-Retain": "true",
		"Ce-Correlationdata": "AP8=", "Ce-Time": "2026-11-22T13:00:00.123456789Z",
	} {
		if got := req.Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	// Who sends a message can't have it read as another event.
	for _, said := range []string{"application/cloudevents+json", "Application/CloudEvents-batch+json; charset=utf-8", "x\r\nX: y", "", "a"} {
		req, _ := sent(t, e, aMessage("x", said))
		if got := req.Header.Get("Content-Type"); got != "application/octet-stream" {
			t.Errorf("Content Type %q: got %q", said, got)
		}
		req, _ = sent(t, e, aMessage(`{"specversion":"1.0"}`, said))
		if got := req.Header.Get("Content-Type"); got != "application/json" {
			t.Errorf("Content Type %q of JSON: got %q", said, got)
		}
	}
	e.Payload = PayloadNone
	if req, body := sent(t, e, r); body != "" || req.Header["Content-Type"] != nil {
		t.Errorf("payload none: %q, %q", body, req.Header["Content-Type"])
	}
}

func TestBatch(t *testing.T) {
	for _, format := range Formats {
		e := endpoint(t, func(e *Endpoint) { e.Batch.Count, e.Format = 10, format })
		for n := 1; n < 3; n++ {
			req, body := sent(t, e, slices.Repeat([]record{full()}, n)...)
			var list []map[string]any
			if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != n {
				t.Errorf("%s: %v, %d events, want %d", format, err, len(list), n)
			}
			want := map[Format]string{CloudEvents: "application/cloudevents-batch+json; charset=utf-8", EMQX: "application/json"}[format]
			if got := req.Header.Get("Content-Type"); got != want {
				t.Errorf("%s: Content-Type %q", format, got)
			}
		}
	}
	// The id of a batch is that of its events, whenever it is tried.
	e := endpoint(t, func(e *Endpoint) { e.Batch.Count = 10 })
	a, b := full(), full()
	b.id[0]++
	id := func(records ...record) string {
		req, _ := sent(t, e, records...)
		return req.Header.Get("webhook-id")
	}
	first, again := id(a, b), id(a, b)
	ids := map[string]bool{first: true, id(a): true, id(b): true, id(b, a): true, id(a, b, a): true}
	if len(ids) != 5 || again != first || id(a) != "010200000000000000000000000000ff" {
		t.Errorf("ids %v", slices.Collect(maps.Keys(ids)))
	}
}

func TestSignature(t *testing.T) {
	first, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
	if err != nil {
		t.Fatal(err)
	}
	second := Secret(strings.Repeat("x", 32))
	e := endpoint(t, func(e *Endpoint) { e.Secrets = []Secret{first, second} })
	req, body := sent(t, e, full())
	if got := req.Header.Get("webhook-timestamp"); got != "1795352400" {
		t.Errorf("webhook-timestamp %q", got)
	}
	var want []string
	for _, key := range e.Secrets {
		m := hmac.New(sha256.New, key)
		m.Write([]byte("010200000000000000000000000000ff.1795352400." + body))
		want = append(want, "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	}
	if got := req.Header.Get("webhook-signature"); got != strings.Join(want, " ") {
		t.Errorf("webhook-signature %q, want %q", got, want)
	}
	e.Secrets = nil
	if req, _ := sent(t, e, full()); req.Header["Webhook-Signature"] != nil || req.Header.Get("webhook-id") == "" {
		t.Error("without a secret it is signed, or has no id")
	}
}

func TestSecrets(t *testing.T) {
	for _, text := range []string{"", "whsec_", "whsec_%%%", "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 23)), base64.StdEncoding.EncodeToString(make([]byte, 65))} {
		if _, err := ParseSecret(text); !errors.Is(err, ErrSecret) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	s := Secret("very secret")
	if s.String() != "***" || s.LogValue().String() != "***" {
		t.Error("a secret is shown")
	}
}

func TestHeaders(t *testing.T) {
	e := endpoint(t, func(e *Endpoint) {
		e.Headers = http.Header{"authorization": {"Bearer x"}, "X-A": {"1", "2"}, "host": {"other.example"}}
	})
	req, _ := sent(t, e, full())
	if req.Header.Get("Authorization") != "Bearer x" || !slices.Equal(req.Header["X-A"], []string{"1", "2"}) || req.Host != "other.example" || req.Header.Get("Host") != "" {
		t.Errorf("got %v, Host %q", req.Header, req.Host)
	}
	if req.Method != http.MethodPost || req.URL.String() != e.URL || req.GetBody == nil {
		t.Errorf("got %s %s, GetBody %t", req.Method, req.URL, req.GetBody != nil)
	}
}

func TestRequestOfWhatCannotBeRead(t *testing.T) {
	r := full()
	for _, records := range [][][]byte{nil, {{}}, {r.encode(), []byte("damaged")}} {
		if _, err := endpoint(t, nil).Request(t.Context(), records, happened); !errors.Is(err, ErrRecord) {
			t.Errorf("%q: got %v", records, err)
		}
	}
}

// Events that are about no message say in their data what there is to say.
func TestOtherEvents(t *testing.T) {
	client := record{
		id: [16]byte{1}, at: happened, node: "n", clientID: "c1", username: "ada", remoteAddr: "192.0.2.1:4711", listener: "tcp", version: codec.V311, keepAlive: 60, flags: flagCleanStart,
	}
	with := func(change func(r *record)) record {
		r := client
		change(&r)
		return r
	}
	const who = `"node": "n", "client_id": "c1", "username": "ada", "remote_addr": "192.0.2.1:4711", "listener": "tcp", "protocol_version": "3.1.1"`
	for _, c := range []struct {
		record        record
		subject, data string
		emqx          string
	}{
		{
			with(func(r *record) { r.kind = "client.connected" }), "c1",
			`{` + who + `, "keep_alive": 60, "clean_start": true, "session_present": false}`,
			`{"event": "client.connected", "clientid": "c1", "username": "ada", "peername": "192.0.2.1:4711", "proto_name": "MQTT", "proto_ver": 4, "keepalive": 60,
				"clean_start": true, "connected_at": 1795352400123, "timestamp": 1795352400123, "node": "n"}`,
		}, {
			with(func(r *record) {
				r.kind, r.reasonCode, r.reason, r.version = "client.disconnected", codec.KeepAliveTimeout, "late", codec.V31
				r.flags |= flagReasonCode
			}), "c1",
			`{` + strings.Replace(who, "3.1.1", "3.1", 1) + `, "reason_code": 141, "reason": "late"}`,
			`{"event": "client.disconnected", "clientid": "c1", "username": "ada", "peername": "192.0.2.1:4711", "proto_name": "MQIsdp", "proto_ver": 3, "reason": "keepalive_timeout",
				"disconnected_at": 1795352400123, "timestamp": 1795352400123, "node": "n"}`,
		}, {
			with(func(r *record) {
				r.kind, r.reasonCode, r.username, r.version = "client.auth_failed", codec.BadUserNameOrPassword, "", codec.V5
				r.flags |= flagReasonCode
			}), "c1",
			`{"node": "n", "client_id": "c1", "remote_addr": "192.0.2.1:4711", "listener": "tcp", "protocol_version": "5.0", "reason_code": 134}`,
			`{"event": "client.connack", "clientid": "c1", "username": null, "peername": "192.0.2.1:4711", "proto_name": "MQTT", "proto_ver": 5, "reason_code": "bad_user_name_or_password",
				"timestamp": 1795352400123, "node": "n"}`,
		}, {
			with(func(r *record) { r.kind, r.topicFilter, r.options = "session.subscribed", "a/+", 0x2D }), "c1",
			`{` + who + `, "topic_filter": "a/+", "qos": 1, "no_local": true, "retain_as_published": true, "retain_handling": 2}`,
			`{"event": "session.subscribed", "clientid": "c1", "username": "ada", "peername": "192.0.2.1:4711", "proto_name": "MQTT", "proto_ver": 4, "topic": "a/+", "qos": 1,
				"timestamp": 1795352400123, "node": "n"}`,
		}, {
			record{id: [16]byte{1}, kind: "session.taken_over", at: happened, node: "n", clientID: "c1"},
			"c1", `{"node": "n", "client_id": "c1"}`,
			`{"event": "session.takenover", "clientid": "c1", "username": null, "timestamp": 1795352400123, "node": "n"}`,
		}, {
			record{id: [16]byte{1}, kind: "node.up", at: happened, node: "n"},
			"n", `{"node": "n"}`,
			`{"event": "node.up", "timestamp": 1795352400123, "node": "n"}`,
		},
	} {
		_, body := sent(t, endpoint(t, nil), c.record)
		var got struct {
			Subject, DataContentType string
			Data                     json.RawMessage
		}
		if err := json.Unmarshal([]byte(body), &got); err != nil || got.Subject != c.subject || got.DataContentType != "application/json" {
			t.Errorf("%s: got %+v, %v", c.record.kind, got, err)
		}
		sameJSON(t, string(got.Data), c.data)
		_, body = sent(t, endpoint(t, func(e *Endpoint) { e.Format = EMQX }), c.record)
		sameJSON(t, body, c.emqx)
	}
}

func TestEMQXMessages(t *testing.T) {
	e := endpoint(t, func(e *Endpoint) { e.Format = EMQX })
	_, body := sent(t, e, full())
	sameJSON(t, body, `{"event": "message.publish", "id": "010200000000000000000000000000FF", "clientid": "sensor-7", "username": "ada", "from_clientid": "other",
		"payload": "{\"t\":21.5}", "peerhost": "192.0.2.1", "topic": "a/b", "qos": 1, "flags": {"retain": true, "dup": false}, "reason": "queue_full",
		"pub_props": {"Message-Expiry-Interval": 4294967295, "Content-Type": "application/json", "Response-Topic": "a/reply", "Correlation-Data": "AP8=",
			"User-Property": {"k": "w"}, "User-Property-Pairs": [{"key": "k", "value": "v"}, {"key": "k", "value": "w"}]},
		"timestamp": 1795352400123, "publish_received_at": 1795352400123, "node": "node-1"}`)
	for _, c := range []struct {
		mode          Payload
		payload, want string
	}{
		{PayloadText, "21", `"payload":"21"`},
		{PayloadText, "\xff", `"payload":"/w==","payload_encoding":"base64"`},
		{PayloadJSON, "21", `"payload":21,`},
		{PayloadJSON, "{", `"payload":"{"`},
		{PayloadBase64, "21", `"payload":"MjE=","payload_encoding":"base64"`},
	} {
		e.Payload = c.mode
		if _, body := sent(t, e, aMessage(c.payload, "")); !strings.Contains(body, c.want) {
			t.Errorf("%s of %q: %s isn't in %s", c.mode, c.payload, c.want, body)
		}
	}
	e.Payload = PayloadNone
	if _, body := sent(t, e, aMessage("x", "")); strings.Contains(body, "payload") {
		t.Errorf("none: got %s", body)
	}
	for kind, want := range map[string]string{"will.published": "message.publish", "message.delivered": "message.delivered", "message.dropped": "delivery.dropped"} {
		r := aMessage("x", "")
		r.kind = kind
		if _, body := sent(t, e, r); !strings.Contains(body, `"event":"`+want+`"`) {
			t.Errorf("%s: got %s", kind, body)
		}
	}
}

func TestEndpointRefuses(t *testing.T) {
	for want, change := range map[string]func(e *Endpoint){
		"Name:":                 func(e *Endpoint) { e.Name = "a b" },
		"URL: \"ftp://x\"":      func(e *Endpoint) { e.URL = "ftp://x" },
		"URL: \"…\"":            func(e *Endpoint) { e.URL = "http://[" },
		"URL: \"http://u:xxxxx": func(e *Endpoint) { e.URL = "http://u:secret@fn.example/" },
		"Payload, Format":       func(e *Endpoint) { e.Format = "xml" },
		"Source:":               func(e *Endpoint) { e.Source = "a b" },
		"Mode:":                 func(e *Endpoint) { e.Mode, e.Batch.Count = Binary, 2 },
		"Batch, Concurrency":    func(e *Endpoint) { e.Concurrency = -1 },
		"Batch.Wait, Timeout":   func(e *Endpoint) { e.RetryMin, e.RetryMax = time.Hour, time.Second },
		"Events: \"\"":          func(e *Endpoint) { e.Events = nil },
		"Events: \"message\"":   func(e *Endpoint) { e.Events = []string{"message"} },
		"Events: \"mess*\"":     func(e *Endpoint) { e.Events = []string{"mess*"} },
		"TopicFilters: \"a#\"":  func(e *Endpoint) { e.TopicFilters = []string{"a", "a#"} },
		"TopicFilters: \"$sh":   func(e *Endpoint) { e.TopicFilters = []string{"$share/a/b"} },
		"Batch.Count: 2":        func(e *Endpoint) { e.Replies, e.Batch.Count = &Replies{TopicFilters: []string{"#"}}, 2 },
		"Replies.TopicFilters":  func(e *Endpoint) { e.Replies = &Replies{} },
		"Replies.QoS":           func(e *Endpoint) { e.Replies = &Replies{TopicFilters: []string{"#"}, QoS: 3} },
		"Replies.Timeout":       func(e *Endpoint) { e.Replies = &Replies{TopicFilters: []string{"#"}, Timeout: -1} },
	} {
		e := &Endpoint{Name: "e", URL: "https://fn.example/", Events: []string{"*"}}
		change(e)
		if err := e.SetDefaults(); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want %s…", err, want)
		}
	}
	e := &Endpoint{Name: "e", URL: "http://fn.example/", AllowPlainHTTP: true, Events: []string{"message.*", "node.up"}, Mode: Binary}
	if err := e.SetDefaults(); err != nil {
		t.Error(err)
	}
}
