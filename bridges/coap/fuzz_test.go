package coapbridge

import (
	"reflect"
	"strings"
	"testing"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
	"github.com/plgd-dev/go-coap/v3/udp/coder"

	"loopmq/codec"
)

// FuzzDecode decodes, parses, and encodes again. What go-coap takes for valid too has the
// same code, token and payload there.
func FuzzDecode(f *testing.F) {
	d := &device{}
	f.Add(encode(d.message(coap.Confirmable, codes.GET, "tok", "/ps/a/b?qos=1", nil, num(coap.Observe, 0), num(coap.Block2, 0x26))))
	f.Add(encode(d.message(coap.NonConfirmable, codes.POST, "", "/ps/a", []byte("x"), num(coap.Block1, 0x1e), option{ID: optionRequestTag, Value: []byte("t")}, num(coap.ContentFormat, 50))))
	f.Add([]byte("\x40\x01\x00\x02\xe1\xff\xff\x00\xffx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decode(data)
		if err != nil {
			return
		}
		if again, err := decode(encode(m)); err != nil || again.Code != m.Code || len(again.Options) != len(m.Options) || string(again.Payload) != string(m.Payload) {
			t.Fatalf("%v became %v, %v", m, again, err)
		}
		other := coap.Message{Options: make(coap.Options, 0, len(data))}
		if _, err := coder.DefaultCoder.Decode(data, &other); err == nil && (other.Code != m.Code || string(other.Payload) != string(m.Payload) || !reflect.DeepEqual([]byte(other.Token), []byte(m.Token)) && len(m.Token) > 0) {
			t.Fatalf("got %v, go-coap %v", m, other)
		}
		q := &request{message: m}
		if q.parse() != nil {
			return
		}
		_, _ = q.qos()
		_, _ = q.expiry()
		q.wanted()
		if len(q.path) > 1 {
			if topic, err := q.topic(1); err == nil && topic != strings.Join(q.path[1:], "/") {
				t.Fatalf("topic %q of %q", topic, q.path)
			}
		}
		r := &response{code: codes.Content, payload: m.Payload}
		if r, err = part(q, r); err == nil {
			encoded, _ := r.encode(coap.Acknowledgement, 1, m.Token, q.wanted())
			if _, err := decode(encoded); err != nil {
				t.Fatalf("% x: %v", encoded, err)
			}
		}
	})
}

// FuzzMatches compares with what a naive reading of the standard says.
func FuzzMatches(f *testing.F) {
	f.Add("a/+/c", "a/b/c")
	f.Add("#", "$SYS/x")
	f.Add("a/#", "a")
	f.Add("a/#/", "a") // isn't valid
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if !codec.ValidTopicFilter([]byte(filter)) || topic == "" || strings.HasPrefix(filter, "$share/") {
			return
		}
		fs, ts := strings.Split(filter, "/"), strings.Split(topic, "/")
		want := len(fs) == len(ts)
		for i, level := range fs {
			if level == "#" {
				want = len(ts) >= i
				fs = fs[:i]
				break
			}
		}
		for i, level := range fs {
			want = want && i < len(ts) && (level == "+" || level == ts[i])
		}
		want = want && (topic[0] != '$' || filter[0] != '+' && filter[0] != '#')
		if got := matches(filter, []byte(topic)); got != want {
			t.Errorf("%q %q: got %v", filter, topic, got)
		}
	})
}

// FuzzKeys reads files of keys.
func FuzzKeys(f *testing.F) {
	f.Add([]byte("# x\na:0011223344556677\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseKeys(text)
		for identity, key := range keys {
			if err == nil && (identity == "" || len(key) < keyMin || len(key) > keyMax) {
				t.Errorf("%q has a key of %d bytes", identity, len(key))
			}
		}
	})
}

// FuzzAdmits has records looked at that a session is given: what is let through is whole,
// and nothing of it ends the session that anyone could have sent.
func FuzzAdmits(f *testing.F) {
	f.Add(record(recordHandshake, 1, 20))
	f.Add(append(record(recordChange, 1, 1), record(recordAlert, 2, 2, 40)...))
	f.Add([]byte{recordAlert, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 9})
	f.Fuzz(func(t *testing.T, data []byte) {
		q := &pipe{ready: make(chan struct{})}
		close(q.ready)
		if !q.admits(data) {
			return
		}
		for len(data) > 0 {
			n := recordHeader + int(data[11])<<8 + int(data[12])
			if plain := data[3] == 0 && data[4] == 0; plain && data[0] != recordHandshake && data[0] != recordChange {
				t.Fatalf("% x is let through", data[:n])
			}
			data = data[n:]
		}
	})
}
