package webhooks

import (
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/store"
)

// endpoint returns an endpoint with its defaults.
func endpoint(t testing.TB, change func(e *Endpoint)) *Endpoint {
	t.Helper()
	e := &Endpoint{Name: "test", URL: "http://localhost/", Events: []string{"*"}}
	if change != nil {
		change(e)
	}
	if err := e.SetDefaults(); err != nil {
		t.Fatal(err)
	}
	return e
}

// named returns an endpoint for the Matcher.
func named(t testing.TB, name string, events, filters []string) *Endpoint {
	return endpoint(t, func(e *Endpoint) { e.Name, e.Events, e.TopicFilters = name, events, filters })
}

func published(topic string) *loopmq.Event {
	return &loopmq.Event{
		Kind: loopmq.EventMessagePublished, At: happened, Node: "node-1", Client: &loopmq.ClientInfo{ClientID: "c1", Username: "ada"},
		Message: &loopmq.MessageView{TopicName: []byte(topic), Payload: []byte("21.5"), QoS: 1, PublisherID: "c1"},
	}
}

// whom returns the names of the endpoints that an event is for.
func whom(m *Matcher, e *loopmq.Event) []string {
	names := []string{}
	if m.Recorder().Wants(e.Kind) {
		out, _ := m.Recorder().Record(e, nil)
		for _, o := range out {
			names = append(names, o.Endpoint)
		}
	}
	slices.Sort(names)
	return names
}

func TestMatcherFindsEndpoints(t *testing.T) {
	m := NewMatcher([]*Endpoint{
		named(t, "all", []string{"*"}, nil),
		named(t, "messages", []string{"message.*"}, nil),
		named(t, "sensors", []string{"message.published", "client.connected", "session.subscribed"}, []string{"sensors/+/temperature", "sensors/#"}),
		named(t, "clients", []string{"client.connected", "client.disconnected"}, nil),
	})
	client := &loopmq.ClientInfo{ClientID: "c1"}
	for _, c := range []struct {
		event *loopmq.Event
		want  []string
	}{
		{published("sensors/1/temperature"), []string{"all", "messages", "sensors"}},
		{published("lamps/1"), []string{"all", "messages"}},
		{&loopmq.Event{Kind: loopmq.EventClientConnected, Client: client}, []string{"all", "clients", "sensors"}},
		{&loopmq.Event{Kind: loopmq.EventSessionSubscribed, Client: client, TopicFilter: "sensors/+"}, []string{"all", "sensors"}},
		{&loopmq.Event{Kind: loopmq.EventSessionSubscribed, Client: client, TopicFilter: "$share/g/sensors/+"}, []string{"all", "sensors"}},
		{&loopmq.Event{Kind: loopmq.EventSessionSubscribed, Client: client, TopicFilter: "#"}, []string{"all"}},
		{&loopmq.Event{Kind: loopmq.EventMessageAcked, Client: client}, []string{"all", "messages"}},
		{&loopmq.Event{Kind: loopmq.EventNodeUp}, []string{"all"}},
	} {
		if got := whom(m, c.event); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.event.Kind, got, c.want)
		}
	}
	m.Set([]*Endpoint{named(t, "new", []string{"node.up"}, nil)})
	if m.Recorder().Wants(loopmq.EventMessagePublished) {
		t.Error("after Set messages are wanted still")
	}
	if got := whom(m, &loopmq.Event{Kind: loopmq.EventNodeUp}); !slices.Equal(got, []string{"new"}) {
		t.Errorf("after Set: got %v", got)
	}
}

func TestMatcherFindsClients(t *testing.T) {
	byClient := endpoint(t, func(e *Endpoint) { e.ClientIDs = []string{"sensor-*", "*-x-*", "lamp"} })
	byUser := endpoint(t, func(e *Endpoint) { e.Usernames = []string{"ada"} })
	both := endpoint(t, func(e *Endpoint) { e.ClientIDs, e.Usernames = []string{"lamp"}, []string{"ada"} })
	for _, c := range []struct {
		e                  *Endpoint
		clientID, username string
		want               bool
	}{
		{byClient, "sensor-7", "", true},
		{byClient, "sensor-", "", true},
		{byClient, "a-x-b", "", true},
		{byClient, "lamp", "bob", true},
		{byClient, "lamps", "", false},
		{byClient, "", "", false},
		{byUser, "lamp", "ada", true},
		{byUser, "lamp", "Ada", false},
		{both, "lamp", "ada", true},
		{both, "lamp", "bob", false},
		{both, "x", "ada", false},
	} {
		m := NewMatcher([]*Endpoint{c.e})
		got := len(whom(m, &loopmq.Event{Kind: loopmq.EventClientConnected, Client: &loopmq.ClientInfo{ClientID: c.clientID, Username: c.username}})) > 0
		if got != c.want {
			t.Errorf("%v %v: %q, %q: got %v, want %v", c.e.ClientIDs, c.e.Usernames, c.clientID, c.username, got, c.want)
		}
		if got := whom(m, &loopmq.Event{Kind: loopmq.EventNodeUp}); len(got) > 0 {
			t.Errorf("%v: an event without a client matches", c.e.ClientIDs)
		}
	}
}

// like is as a regular expression has it.
func TestLike(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	text := func(letters string) string {
		b := make([]byte, random.IntN(7))
		for i := range b {
			b[i] = letters[random.IntN(len(letters))]
		}
		return string(b)
	}
	for range 20_000 {
		pattern, s := text("ab*"), text("ab")
		want := regexp.MustCompile("^" + strings.ReplaceAll(pattern, "*", ".*") + "$").MatchString(s)
		if got := like(pattern, s); got != want {
			t.Fatalf("like(%q, %q): got %v", pattern, s, got)
		}
	}
}

// What is recorded of an event is what it says.
func TestMatcherRecords(t *testing.T) {
	m := NewMatcher([]*Endpoint{endpoint(t, func(e *Endpoint) { e.MaxQueued, e.MaxQueuedBytes = 17, 4711 })})
	client := &loopmq.ClientInfo{ClientID: "c1", Username: "ada", Listener: "tcp", ProtocolVersion: codec.V5, CleanStart: true, KeepAlive: 30}
	message := &loopmq.MessageView{TopicName: []byte("a/b"), QoS: 2, Retain: true, PublisherID: "c2", Expiry: happened.Add(1500 * time.Millisecond)}
	about := record{at: happened, node: "n", clientID: "c1", username: "ada", listener: "tcp", version: codec.V5, keepAlive: 30, flags: flagCleanStart}
	with := func(change func(r *record)) record {
		r := about
		change(&r)
		return r
	}
	for _, c := range []struct {
		event loopmq.Event
		want  record
	}{
		{
			loopmq.Event{Kind: loopmq.EventClientConnected, Client: client, SessionPresent: true},
			with(func(r *record) { r.kind, r.flags = "client.connected", flagCleanStart|flagSessionPresent }),
		}, {
			loopmq.Event{Kind: loopmq.EventClientDisconnected, Client: client, ReasonCode: codec.KeepAliveTimeout, Reason: "late"},
			with(func(r *record) {
				r.kind, r.flags, r.reasonCode, r.reason = "client.disconnected", flagCleanStart|flagReasonCode, codec.KeepAliveTimeout, "late"
			}),
		}, {
			loopmq.Event{
				Kind: loopmq.EventSessionSubscribed, Client: client, TopicFilter: "$share/g/a/+",
				Options: codec.SubscriptionOptions{QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2},
			},
			with(func(r *record) { r.kind, r.topicFilter, r.options = "session.subscribed", "$share/g/a/+", 0x2D }),
		}, {
			loopmq.Event{Kind: loopmq.EventMessageDelivered, Client: client, Message: message, QoS: 1, PacketID: 7},
			with(func(r *record) {
				r.kind, r.topicName, r.payload, r.qos, r.packetID, r.publisher, r.expiry = "message.delivered", []byte("a/b"), []byte{}, 1, 7, "c2", 2
				r.flags |= flagRetain
			}),
		}, {
			loopmq.Event{Kind: loopmq.EventMessagePublished, Client: client, Message: message},
			with(func(r *record) {
				r.kind, r.topicName, r.payload, r.qos, r.publisher, r.expiry = "message.published", []byte("a/b"), []byte{}, 2, "c2", 2
				r.flags |= flagRetain
			}),
		}, {
			loopmq.Event{Kind: loopmq.EventNodeDown},
			record{kind: "node.down", at: happened, node: "n"},
		},
	} {
		c.event.At, c.event.Node = happened, "n"
		out, wait := m.Recorder().Record(&c.event, nil)
		if len(out) != 1 || wait || out[0].Endpoint != "test" || out[0].MaxEntries != 17 || out[0].MaxBytes != 4711 {
			t.Fatalf("%v: got %+v, %v", c.event.Kind, out, wait)
		}
		var got record
		if err := got.decode(out[0].Data); err != nil {
			t.Fatal(err)
		}
		if got.id == [16]byte{} {
			t.Errorf("%v has no id", c.event.Kind)
		}
		got.id = [16]byte{}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v:\ngot  %+v\nwant %+v", c.event.Kind, got, c.want)
		}
	}
}

// One event has one id and one record, but for endpoints that get no payload; and it waits if one of them asks for it.
func TestMatcherSharesRecords(t *testing.T) {
	m := NewMatcher([]*Endpoint{
		named(t, "a", []string{"*"}, nil),
		named(t, "b", []string{"*"}, []string{"#", "+/+", "x/y"}),
		endpoint(t, func(e *Endpoint) { e.Name, e.Payload, e.Durability = "c", PayloadNone, Outbox }),
	})
	out, wait := m.Recorder().Record(published("x/y"), []store.Event{{Endpoint: "before"}})
	if len(out) != 4 || out[0].Endpoint != "before" || !wait {
		t.Fatalf("got %d, %v, want 4 and to wait", len(out), wait)
	}
	ids := map[[16]byte]bool{}
	data := map[*byte]bool{}
	for _, o := range out[1:] {
		var r record
		if err := r.decode(o.Data); err != nil {
			t.Fatal(err)
		}
		if (r.payload == nil) != (o.Endpoint == "c") {
			t.Errorf("%s: payload %q", o.Endpoint, r.payload)
		}
		ids[r.id], data[&o.Data[0]] = true, true
	}
	if len(ids) != 1 || len(data) != 2 {
		t.Errorf("%d ids and %d records, want 1 and 2", len(ids), len(data))
	}
	again, _ := m.Recorder().Record(published("x/y"), nil)
	var r record
	if err := r.decode(again[0].Data); err != nil || ids[r.id] {
		t.Errorf("the next event has the same id, or can't be read: %v", err)
	}
	if _, wait := NewMatcher([]*Endpoint{named(t, "a", []string{"*"}, nil)}).Recorder().Record(published("x"), nil); wait {
		t.Error("it waits for an endpoint that is async")
	}
}

func TestMatcherAllocatesNothingForNobody(t *testing.T) {
	var endpoints []*Endpoint
	for i := range 50 {
		endpoints = append(endpoints, named(t, fmt.Sprint("e", i), []string{"message.published"}, []string{fmt.Sprintf("a/%d/#", i), "b/+/c"}))
	}
	endpoints = append(endpoints, endpoint(t, func(e *Endpoint) { e.Name, e.ClientIDs = "by-client", []string{"x*"} }))
	record := NewMatcher(endpoints).Recorder().Record
	e := published("sensors/1/temperature")
	out := make([]store.Event, 0, 4)
	if n := testing.AllocsPerRun(1000, func() { out, _ = record(e, out[:0]) }); n != 0 || len(out) != 0 {
		t.Errorf("%v allocations, %d matches, want none", n, len(out))
	}
}

func BenchmarkMatcher(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("endpoints=%d/match=none", n), func(b *testing.B) {
			var endpoints []*Endpoint
			for i := range n {
				endpoints = append(endpoints, named(b, fmt.Sprint("e", i), []string{"message.published"}, []string{fmt.Sprintf("a/%d/#", i)}))
			}
			record, e := NewMatcher(endpoints).Recorder().Record, published("sensors/1/temperature")
			b.ReportAllocs()
			for b.Loop() {
				record(e, nil)
			}
		})
	}
}

// What a record has as an address is what the address says of itself.
func TestAddrText(t *testing.T) {
	t.Parallel()
	for _, a := range []net.Addr{
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1883}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7).To4(), Port: 65535}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1},
		&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1}, &net.UnixAddr{Name: "/run/x", Net: "unix"},
	} {
		if got := addrText(a); got != a.String() {
			t.Errorf("got %q, want %q", got, a)
		}
	}
}
