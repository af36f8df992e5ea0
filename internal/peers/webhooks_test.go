package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	cetypes "github.com/cloudevents/sdk-go/v2/types"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"loopmq"
	"loopmq/codec"
	"loopmq/webhooks"
)

// The secrets of an endpoint that is changing from one to the other.
const (
	oldSecret = "whsec_bm90IGEgc2VjcmV0IGF0IGFsbCwgYnV0IGxvbmc="
	newSecret = "whsec_YW5kIHRoaXMgb25lIGlzIGV2ZW4gbG9uZ2VyIHRoYW4gdGhlIG90aGVy"
)

// happenings are events of all sorts.
func happenings() map[string]*loopmq.Event {
	at := time.Date(2026, 11, 22, 13, 0, 0, 123456789, time.UTC)
	client := &loopmq.ClientInfo{ClientID: "sensor 7/ä\"%", Username: "ada", Listener: "tcp", ProtocolVersion: codec.V5, KeepAlive: 60}
	event := func(kind loopmq.EventKind) *loopmq.Event {
		return &loopmq.Event{Kind: kind, At: at, Node: "node 1", Client: client}
	}
	message := func(payload string) *loopmq.Event {
		e := event(loopmq.EventMessagePublished)
		e.Message = &loopmq.MessageView{TopicName: []byte("räume/1/temperature"), Payload: []byte(payload), QoS: 1, Retain: true, Expiry: at.Add(time.Hour), PublisherID: client.ClientID}
		return e
	}
	subscribed := event(loopmq.EventSessionSubscribed)
	subscribed.TopicFilter, subscribed.Options = "a/+", codec.SubscriptionOptions{QoS: 1}
	dropped := message("x")
	dropped.Kind, dropped.Reason = loopmq.EventMessageDropped, "queue_full"
	return map[string]*loopmq.Event{
		"connected": event(loopmq.EventClientConnected), "subscribed": subscribed, "node up": {Kind: loopmq.EventNodeUp, At: at, Node: "node 1"},
		"JSON": message(`{"t": 21.5}`), "text": message("warm <&>"), "bytes": message("\x00\xff"), "empty": message(""), "dropped": dropped,
	}
}

// request returns what an endpoint sends of events, as its receiver gets it.
func request(t *testing.T, e *webhooks.Endpoint, events ...*loopmq.Event) (*http.Request, []byte) {
	t.Helper()
	e.Name, e.URL, e.Events = "fn", "https://fn.example/", []string{"*"}
	for _, text := range []string{newSecret, oldSecret} {
		s, err := webhooks.ParseSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		e.Secrets = append(e.Secrets, s)
	}
	if err := e.SetDefaults(); err != nil {
		t.Fatal(err)
	}
	record := webhooks.NewMatcher([]*webhooks.Endpoint{e}).Recorder().Record
	var records [][]byte
	for _, event := range events {
		out, _ := record(event, nil)
		records = append(records, out[0].Data)
	}
	made, err := e.Request(t.Context(), records, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var wire bytes.Buffer
	if err := made.Write(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	got.Body = io.NopCloser(bytes.NewReader(body))
	return got, body
}

// Whoever verifies as Standard Webhooks has it accepts what is signed, with either secret and no other, and nothing that
// has been changed.
func TestStandardWebhooks(t *testing.T) {
	for name, event := range happenings() {
		r, body := request(t, &webhooks.Endpoint{}, event)
		for _, secret := range []string{oldSecret, newSecret} {
			wh, err := standardwebhooks.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := wh.Verify(body, r.Header); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if wh.Verify(append(slices.Clone(body), ' '), r.Header) == nil {
				t.Errorf("%s: another body verifies, too", name)
			}
		}
		wh, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32)))
		if err != nil {
			t.Fatal(err)
		}
		if wh.Verify(body, r.Header) == nil {
			t.Errorf("%s: another secret verifies, too", name)
		}
	}
}

// What is sent is a CloudEvent to CloudEvents' own library, and says the same in each mode.
func TestCloudEvents(t *testing.T) {
	for name, event := range happenings() {
		for _, payload := range webhooks.Payloads {
			var both []*cloudevents.Event
			for _, mode := range webhooks.Modes {
				r, _ := request(t, &webhooks.Endpoint{Mode: mode, Payload: payload}, event)
				m := cehttp.NewMessageFromHttpRequest(r)
				if want := map[webhooks.Mode]binding.Encoding{webhooks.Structured: binding.EncodingStructured, webhooks.Binary: binding.EncodingBinary}[mode]; m.ReadEncoding() != want {
					t.Errorf("%s, %s: read as %v, want %v", name, mode, m.ReadEncoding(), want)
				}
				got, err := binding.ToEvent(context.Background(), m)
				if err != nil {
					t.Fatalf("%s, %s: %v", name, mode, err)
				}
				if err := got.Validate(); err != nil {
					t.Errorf("%s, %s: %v", name, mode, err)
				}
				if mode == webhooks.Binary {
					unescape(t, got)
				}
				if got.Type() != "io.loopmq."+event.Kind.String() || got.Source() != "loopmq/node%201" || !got.Time().Equal(event.At) {
					t.Errorf("%s, %s: got %v", name, mode, got)
				}
				both = append(both, got)
			}
			sameEvent(t, name+" as "+string(payload), both[0], both[1])
			if m := event.Message; m != nil && payload != webhooks.PayloadNone {
				if got := both[0]; got.Subject() != string(m.TopicName) || payload != webhooks.PayloadText && !bytes.Equal(got.Data(), m.Payload) {
					t.Errorf("%s as %s: got %q about %q", name, payload, got.Data(), got.Subject())
				}
				var text string
				if payload == webhooks.PayloadText && name == "text" && (both[0].DataAs(&text) != nil || text != string(m.Payload)) {
					t.Errorf("text: got %q", text)
				}
			}
		}
	}
}

// unescape does what the library leaves out: in headers, attributes are percent-encoded (HTTP Protocol Binding 1.0.2, section 3.1.3.2).
func unescape(t *testing.T, e *cloudevents.Event) {
	t.Helper()
	plain := func(s string) string {
		text, err := url.PathUnescape(s)
		if err != nil {
			t.Error(err)
		}
		return text
	}
	e.SetSubject(plain(e.Subject()))
	e.SetSource(plain(e.Source()))
	for key, value := range e.Extensions() {
		if text, ok := value.(string); ok {
			e.SetExtension(key, plain(text))
		}
	}
}

// sameEvent complains if two events differ, but for their ids: each was recorded by itself. The attributes that binary
// mode has are text.
func sameEvent(t *testing.T, name string, a, b *cloudevents.Event) {
	t.Helper()
	if a.Subject() != b.Subject() || !bytes.Equal(a.Data(), b.Data()) || a.DataContentType() != b.DataContentType() {
		t.Errorf("%s: structured and binary differ:\n%v\n%v", name, a, b)
	}
	if len(a.Extensions()) != len(b.Extensions()) {
		t.Errorf("%s: extensions %v and %v", name, a.Extensions(), b.Extensions())
	}
	for key, value := range a.Extensions() {
		if text, err := cetypes.Format(value); err != nil || text != b.Extensions()[key] {
			t.Errorf("%s: %s is %v and %v", name, key, value, b.Extensions()[key])
		}
	}
}

// A batch has all events, in order.
func TestCloudEventsBatch(t *testing.T) {
	var events []*loopmq.Event
	for _, e := range happenings() {
		events = append(events, e)
	}
	r, _ := request(t, &webhooks.Endpoint{Batch: webhooks.Batch{Count: 100}}, events...)
	got, err := cehttp.NewEventsFromHTTPRequest(r)
	if err != nil || len(got) != len(events) {
		t.Fatalf("%d events, %v, want %d", len(got), err, len(events))
	}
	ids := map[string]bool{}
	for i := range got {
		if err := got[i].Validate(); err != nil {
			t.Error(err)
		}
		if want := "io.loopmq." + events[i].Kind.String(); got[i].Type() != want {
			t.Errorf("event %d: got %s, want %s", i, got[i].Type(), want)
		}
		ids[got[i].ID()] = true
	}
	if len(ids) != len(events) {
		t.Errorf("%d ids of %d events", len(ids), len(events))
	}
}
