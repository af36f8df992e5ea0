package webhooks

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"loopmq/codec"
)

// happened is when the events of these tests did.
var happened = time.Date(2026, 11, 22, 13, 0, 0, 123456789, time.UTC)

// properties are those of a PUBLISH, as they stand in it.
func properties(set func(p *codec.Properties)) []byte {
	var p codec.Properties
	set(&p)
	return p.AppendForward(nil)
}

// full is a record with all that there can be.
func full() record {
	return record{
		id: [16]byte{1, 2, 15: 255}, kind: "message.published", at: happened, node: "node-1",
		clientID: "sensor-7", username: "ada", remoteAddr: "192.0.2.1:4711", listener: "tcp", version: codec.V5, keepAlive: 60,
		flags: flagRetain | flagReasonCode, reasonCode: codec.QuotaExceeded, reason: "queue_full", topicFilter: "a/+", options: 2,
		topicName: []byte("a/b"), payload: []byte(`{"t":21.5}`), qos: 1, expiry: 4294967295, packetID: 65535, publisher: "other",
		properties: properties(func(p *codec.Properties) {
			p.ContentType, p.ResponseTopic, p.CorrelationData = []byte("application/json"), []byte("a/reply"), []byte{0, 255}
			p.UserProperties = []codec.UserProperty{{Key: []byte("k"), Value: []byte("v")}, {Key: []byte("k"), Value: []byte("w")}}
			for _, id := range []codec.PropertyID{codec.PropContentType, codec.PropResponseTopic, codec.PropCorrelationData, codec.PropUserProperty} {
				p.Set(id)
			}
		}),
	}
}

func TestRecordComesBackAsItWas(t *testing.T) {
	for name, r := range map[string]record{
		"full":          full(),
		"empty payload": {kind: "message.published", at: happened, topicName: []byte("a"), payload: []byte{}},
		"no payload":    {kind: "message.published", at: happened, topicName: []byte("a")},
		"small":         {kind: "node.up", at: happened},
	} {
		var back record
		if err := back.decode(r.encode()); err != nil || !reflect.DeepEqual(r, back) {
			t.Errorf("%s: got %+v, %v, want %+v", name, back, err, r)
		}
	}
}

func TestRecordIsOneAllocation(t *testing.T) {
	r := full()
	if n := testing.AllocsPerRun(100, func() { r.encode() }); n != 1 {
		t.Errorf("%v allocations, want 1", n)
	}
}

func TestRecordOfALaterVersion(t *testing.T) {
	r := full()
	b := appendField(r.encode(), 200, "what isn't known yet")
	var back record
	if err := back.decode(b); err != nil || !reflect.DeepEqual(r, back) {
		t.Errorf("a field that isn't known: got %+v, %v", back, err)
	}
}

func TestRecordRefuses(t *testing.T) {
	r := full()
	good := r.encode()
	for name, b := range map[string][]byte{
		"nothing":         {},
		"other version":   append([]byte{2}, good[1:]...),
		"no kind":         {recordVersion},
		"cut off":         good[:len(good)-1],
		"no length":       append(bytes.Clone(good), fieldReason),
		"endless length":  append(bytes.Clone(good), fieldReason, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1),
		"short id":        appendField(bytes.Clone(good), fieldID, "x"),
		"number too big":  appendNumber(bytes.Clone(good), fieldQoS, 256),
		"number with end": appendField(bytes.Clone(good), fieldQoS, "\x01\x01"),
	} {
		var back record
		if err := back.decode(b); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v, want ErrRecord", name, err)
		}
	}
}

func TestKeyAndUntil(t *testing.T) {
	r := full()
	subscribed := record{kind: kindSubscribed, at: happened, clientID: "c", topicFilter: "a/#"}
	for _, c := range []struct {
		order Order
		data  []byte
		want  string
	}{
		{OrderNone, r.encode(), ""},
		{OrderClient, r.encode(), "sensor-7"},
		{OrderTopic, r.encode(), "a/b"},
		{OrderTopic, subscribed.encode(), "a/#"},
		{OrderTopic, []byte("damaged"), ""},
	} {
		e := Endpoint{Order: c.order}
		if got := e.Key(c.data); got != c.want {
			t.Errorf("Key(%s): got %q, want %q", c.order, got, c.want)
		}
	}
	e := Endpoint{MaxAge: time.Hour}
	if got := e.Until(r.encode()); !got.Equal(happened.Add(time.Hour)) {
		t.Errorf("Until: got %v", got)
	}
	e.Replies = &Replies{Timeout: time.Minute}
	if got := e.Until(r.encode()); !got.Equal(happened.Add(time.Minute)) {
		t.Errorf("Until of a message with a Response Topic: got %v", got)
	}
	if got := e.Until(subscribed.encode()); !got.Equal(happened.Add(time.Hour)) {
		t.Errorf("Until of what nobody answers: got %v", got)
	}
	if got := e.Until([]byte("damaged")); !got.IsZero() {
		t.Errorf("Until of a damaged record: got %v", got)
	}
}

func FuzzRecord(f *testing.F) {
	r := full()
	f.Add(r.encode())
	f.Add((&record{kind: "node.up"}).encode())
	f.Add([]byte{recordVersion})
	e := Endpoint{Name: "e", URL: "http://localhost", Events: []string{"*"}, Replies: &Replies{TopicFilters: []string{"#"}}}
	if err := e.SetDefaults(); err != nil {
		f.Fatal(err)
	}
	emqx := e
	emqx.Format, emqx.Payload = EMQX, PayloadJSON
	bin := e
	bin.Mode = Binary
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again record
		if r.decode(b) != nil {
			return
		}
		if err := again.decode(r.encode()); err != nil || !bytes.Equal(again.encode(), r.encode()) {
			t.Fatalf("got %+v, %v, want %+v", again, err, r)
		}
		for _, e := range []*Endpoint{&e, &emqx, &bin} {
			req, err := e.Request(t.Context(), [][]byte{b}, happened)
			if err != nil {
				t.Fatal(err)
			}
			for name, values := range req.Header {
				if strings.ContainsAny(values[0], "\r\n") {
					t.Fatalf("header %s: %q", name, values[0])
				}
			}
			e.Key(b)
			e.Until(b)
		}
	})
}
