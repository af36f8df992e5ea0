package httpbridge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"loopmq"
	"loopmq/codec"
)

// Whatever a message has in it, its event is one event, and says the same.
func FuzzEvent(f *testing.F) {
	f.Add("a/b", []byte("text"), uint8(0))
	f.Add("a", []byte("\xff\x00"), uint8(0))
	f.Add("\"\\\x01\u2028", []byte("line\r\n\rline\n\n"), uint8(1))
	f.Add("t", []byte(`{"a":[1, "\n"]}`), uint8(3))
	f.Add("t", []byte("\"\xff\""), uint8(3))
	f.Fuzz(func(t *testing.T, topic string, payload []byte, form uint8) {
		if !utf8.ValidString(topic) {
			return // no such message gets in
		}
		e := event{message: &loopmq.MessageView{TopicName: []byte(topic), Payload: payload, QoS: 1, Retain: true}}
		format := eventFormat{payload: payloadForm(form % 4)}
		text := string(e.append(nil, &format, time.Time{}))
		body, begins := strings.CutPrefix(text, "event: message\ndata: ")
		body, ends := strings.CutSuffix(body, "\n\n")
		if !begins || !ends || strings.ContainsAny(body, "\r\n") || !utf8.ValidString(body) {
			t.Fatalf("not one event: %q", text)
		}
		var m struct {
			Topic           string
			Payload         json.RawMessage
			PayloadEncoding string `json:"payload_encoding"`
		}
		if err := json.Unmarshal([]byte(body), &m); err != nil || m.Topic != topic {
			t.Fatalf("%q: topic %q, %v", body, m.Topic, err)
		}
		var s string
		switch {
		case m.PayloadEncoding == "json":
			var want bytes.Buffer
			if json.Compact(&want, payload) != nil || want.String() != string(m.Payload) {
				t.Errorf("payload %s of %q", m.Payload, payload)
			}
		case json.Unmarshal(m.Payload, &s) != nil:
			t.Errorf("payload %s", m.Payload)
		default:
			got, err := decodeText(s, m.PayloadEncoding)
			lossy := format.payload == payloadPlain && !utf8.Valid(payload)
			if err != nil || !lossy && !bytes.Equal(got, payload) {
				t.Errorf("payload %q (%s), want %q", s, m.PayloadEncoding, payload)
			}
		}
		format.payloadOnly = true
		for line := range strings.Lines(strings.TrimSuffix(string(e.append(nil, &format, time.Time{})), "\n")) {
			if !strings.HasPrefix(line, "event: message\n") && !strings.HasPrefix(line, "data: ") || strings.Contains(line, "\r") {
				t.Errorf("line %q", line)
			}
		}
	})
}

// Whatever a query has in it, it is refused, or has what it asks for.
func FuzzSubscription(f *testing.F) {
	for _, q := range []string{
		"filter=a/%2B&filter=b&qos=2", "session=s&filter=t&expiry=60&retained=all&format=payload&payload=json", "session=s&last_event_id=1-2-3",
		"", "filter=%zz", "filter=a;b", "access_token=x&filter=a", "session=a%2Fb",
	} {
		f.Add(q, "")
	}
	f.Add("session=s", "1-1-1")
	f.Fuzz(func(t *testing.T, q, last string) {
		r := &http.Request{URL: &url.URL{RawQuery: q}, Header: http.Header{"Last-Event-Id": {last}}}
		bearer(r)
		s, err := parseSubscription(r)
		if err != nil {
			if faultOf(err).status != http.StatusBadRequest {
				t.Errorf("%q: %v", q, err)
			}
			return
		}
		for _, filter := range s.filters {
			if !codec.ValidTopicFilter([]byte(filter)) {
				t.Errorf("%q: filter %q", q, filter)
			}
		}
		if s.options.QoS > 2 || s.options.RetainHandling > 2 || strings.Contains(s.session, "/") || (s.session == "") != (s.expiry == 0) || len(s.filters) > filtersMax {
			t.Errorf("%q: %+v", q, s)
		}
	})
}

// A stream that is full says so, and goes on when there is room again.
func TestStreamBuffer(t *testing.T) {
	t.Parallel()
	s := &stream{b: &Bridge{opts: Options{Streams: StreamOptions{BufferBytes: 1000}}}, changed: make(chan struct{}, 1)}
	m := &loopmq.MessageView{TopicName: []byte("t"), Payload: make([]byte, 300)}
	if !s.onMessage(m, loopmq.DeliveryID{}, false) || s.onMessage(&loopmq.MessageView{Payload: make([]byte, 2000)}, loopmq.DeliveryID{}, false) {
		t.Error("1000 bytes took 300 and 2000")
	}
	if queue, refused, _ := s.take(); len(queue) != 1 || !refused {
		t.Errorf("got %d events, refused: %v", len(queue), refused)
	}
	if !s.onMessage(&loopmq.MessageView{Payload: make([]byte, 2000)}, loopmq.DeliveryID{}, false) { // else it would never go out
		t.Error("an empty buffer took no large message")
	}
	if s.onMessage(m, loopmq.DeliveryID{}, false) {
		t.Error("a full buffer took another")
	}
}

// The ends of streams have their reasons.
func TestStreamEndOf(t *testing.T) {
	t.Parallel()
	for code, want := range map[codec.ReasonCode]string{
		codec.SessionTakenOver: "taken_over", codec.Banned: "not_authorized", codec.UseAnotherServer: "server_shutdown",
		codec.AdministrativeAction: "administrative", codec.ServerBusy: "internal_error",
	} {
		if got := streamEndOf(codec.NewError(code, "x")).String(); got != want {
			t.Errorf("%v: got %s, want %s", code, got, want)
		}
	}
	if got := fmt.Sprint(parseTimeout("90")); got != "1m30s <nil>" {
		t.Errorf("90 seconds are %s", got)
	}
}
