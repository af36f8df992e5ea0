package loopmq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store"
	"loopmq/store/memory"
)

// journal notes events as lines.
type journal struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// has reports whether a line has come, and takes it out.
func (j *journal) take(line string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, l := range j.lines {
		if l == line {
			j.lines = append(j.lines[:i], j.lines[i+1:]...)
			return true
		}
	}
	return false
}

// expect waits for lines, in any order, and that there are no others.
func (j *journal) expect(t *testing.T, lines ...string) {
	t.Helper()
	missing := lines
	eventually(t, fmt.Sprintf("%q", lines), func() bool {
		var rest []string
		for _, l := range missing {
			if !j.take(l) {
				rest = append(rest, l)
			}
		}
		missing = rest
		return len(missing) == 0
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) > 0 {
		t.Errorf("got also %q", j.lines)
		j.lines = nil
	}
}

func message(m *loopmq.MessageView) string {
	var p codec.Properties
	if err := m.Properties(&p); err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%s %.8s qos%d", m.TopicName, m.Payload, m.QoS)
	if m.Retain {
		s += " retain"
	}
	if len(p.ContentType) > 0 {
		s += " type " + string(p.ContentType)
	}
	return s
}

// line is an event as the journal notes it.
func line(e *loopmq.Event) string {
	s := e.Kind.String()
	if e.Client != nil {
		s += " " + e.Client.ClientID
	}
	switch e.Kind {
	case loopmq.EventClientConnected:
		c := e.Client
		s += fmt.Sprintf(" v%d clean %t keepalive %d present %t remote %t", c.ProtocolVersion, c.CleanStart, c.KeepAlive, e.SessionPresent,
			strings.HasPrefix(c.RemoteAddr().String(), "127.0.0.1:"))
	case loopmq.EventClientDisconnected, loopmq.EventClientAuthFailed:
		s += fmt.Sprintf(" %s 0x%02X %t", e.Client.Username, byte(e.ReasonCode), e.Reason != "")
	case loopmq.EventSessionSubscribed:
		s += fmt.Sprintf(" %s qos%d", e.TopicFilter, e.Options.QoS)
	case loopmq.EventSessionUnsubscribed:
		s += " " + e.TopicFilter
	case loopmq.EventMessageDelivered:
		s += fmt.Sprintf(": %s at qos%d dup %t", message(e.Message), e.QoS, e.Dup)
	case loopmq.EventMessageAcked:
		s += fmt.Sprintf(": %s at qos%d 0x%02X", message(e.Message), e.QoS, byte(e.ReasonCode))
	case loopmq.EventMessageDropped:
		s += fmt.Sprintf(": %s at qos%d: %s", message(e.Message), e.QoS, e.Reason)
	case loopmq.EventMessagePublished, loopmq.EventWillPublished:
		s += ": " + message(e.Message)
	case loopmq.EventNodeUp, loopmq.EventNodeDown:
		s += " " + e.Node + " " + e.Reason
	}
	return s
}

// recorder notes all events of some kinds, or all, and has them stored as well, in the outbox of endpoint.
func (j *journal) recorder(kinds ...loopmq.EventKind) *loopmq.Recorder {
	r := loopmq.OnEvent(func(*loopmq.Event) {}, kinds...)
	r.Record = func(e *loopmq.Event, to []store.Event) ([]store.Event, bool) {
		l := line(e)
		j.note("%s", l)
		if d := time.Since(e.At); d < -clocksAhead-time.Minute || d > time.Minute { // a loop looks at the store's clock once in a while only
			j.note("it is said to have happened %v ago", d)
		}
		return append(to, store.Event{Endpoint: endpoint, Data: []byte(l)}), false
	}
	return r
}

// clocksAhead is how far tests set the store's clock ahead at most.
const clocksAhead = 2 * time.Minute

// endpoint has the outbox of tests.
const endpoint = "e"

// outboxOf waits until an outbox has so many events, and no fewer, and returns them.
func outboxOf(t *testing.T, st store.Store, n int) (events []string) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " events in the outbox"), func() bool {
		taken, err := st.Outbox().Take(t.Context(), endpoint, "test", 1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range taken {
			events = append(events, string(e.Data))
		}
		return len(events) >= n
	})
	if len(events) != n {
		t.Errorf("the outbox had %d events, not %d: %q", len(events), n, events)
	}
	return events
}

func username(name string) brokertest.ConnectOption { return brokertest.Credentials(name, name) }

// Every event comes once for what it is about, with what it says, and is stored once, in 3.1.1 and 5.0.
func TestEvents(t *testing.T) {
	t.Parallel()
	for _, v := range []codec.Version{codec.V311, codec.V5} {
		t.Run(fmt.Sprint("v", v), func(t *testing.T) {
			t.Parallel()
			testEvents(t, v)
		})
	}
}

func testEvents(t *testing.T, v codec.Version) {
	j := &journal{}
	c := &clock{}
	st := memory.New(memory.Options{Now: c.Now})
	t.Cleanup(func() { _ = st.Close() })
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Store, o.Recorder, o.NodeID = st, j.recorder(), "n1"
		o.Authenticator, o.Limits.SessionExpiryInterval = passwords{}, 60
	})
	expected := 0
	expect := func(lines ...string) {
		t.Helper()
		expected += len(lines)
		j.expect(t, lines...)
	}
	expect("node.up n1 ")
	bad := brokertest.Dial(t, s.Addr, v)
	bad.SendConnect(brokertest.ClientID("bad"), brokertest.Credentials("user", "wrong"))
	bad.Receive()
	expect("client.auth_failed bad user 0x86 true")

	sub := brokertest.Connect(t, s.Addr, v, brokertest.Durable("sub"), username("subscriber"))
	expect("session.created sub", fmt.Sprintf("client.connected sub v%d clean false keepalive 60 present false remote true", v))
	sub.Subscribe("t/#", 2)
	expect("session.subscribed sub t/# qos2")
	pub := brokertest.Connect(t, s.Addr, v, brokertest.ClientID("pub"), brokertest.KeepAlive(10), username("publisher"))
	expect("session.created pub", fmt.Sprintf("client.connected pub v%d clean true keepalive 10 present false remote true", v))
	pub.Publish("t/0", "0", 0)
	sub.ExpectPublish("t/0", "0")
	expect("message.published pub: t/0 0 qos0", "message.delivered sub: t/0 0 qos0 at qos0 dup false")
	pub.Publish("t/1", "1", 1, brokertest.Retained)
	sub.Acknowledge(sub.ExpectPublish("t/1", "1"))
	expect("message.published pub: t/1 1 qos1 retain", "message.delivered sub: t/1 1 qos1 retain at qos1 dup false",
		"message.acked sub: t/1 1 qos1 retain at qos1 0x00")
	if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "t/2", Payload: []byte("2"), QoS: 2, ContentType: "text"}); err != nil {
		t.Fatal(err)
	}
	sub.Acknowledge(sub.ExpectPublish("t/2", "2"))
	expect("message.published: t/2 2 qos2 type text", "message.delivered sub: t/2 2 qos2 type text at qos2 dup false",
		"message.acked sub: t/2 2 qos2 type text at qos2 0x00")
	sub.Unsubscribe("t/#", "other")
	expect("session.unsubscribed sub t/#")

	member := brokertest.Connect(t, s.Addr, v, brokertest.ClientID("member"), username("m"))
	member.Subscribe("$share/g/t/#", 1)
	expect("session.created member", fmt.Sprintf("client.connected member v%d clean true keepalive 60 present false remote true", v),
		"session.subscribed member $share/g/t/# qos1")
	pub.Publish("t/shared", "s", 2)
	member.ExpectPublish("t/shared", "s") // and isn't acknowledged
	member.Close()
	expect("message.published pub: t/shared s qos2", "message.delivered member: t/shared s qos2 at qos1 dup false",
		"client.disconnected member known-m 0x80 false", "message.dropped: t/shared s qos2 at qos1: session_gone", "session.terminated member")

	sub.Disconnect()
	expect("client.disconnected sub known-subscriber 0x00 true")
	will := brokertest.Will("will", "w", 1, true)
	brokertest.Connect(t, s.Addr, v, brokertest.Durable("sub"), username("subscriber"), will)
	expect(fmt.Sprintf("client.connected sub v%d clean false keepalive 60 present true remote true", v))
	sub = brokertest.Connect(t, s.Addr, v, brokertest.Durable("sub"), username("subscriber"), will)
	expect("client.disconnected sub known-subscriber 0x8E true", "session.taken_over sub", "will.published sub: will w qos1 retain",
		"message.published sub: will w qos1 retain", fmt.Sprintf("client.connected sub v%d clean false keepalive 60 present true remote true", v))
	sub.Close()
	expect("client.disconnected sub known-subscriber 0x80 false", "will.published sub: will w qos1 retain", "message.published sub: will w qos1 retain")
	c.advance(clocksAhead)
	brokertest.Connect(t, s.Addr, v, brokertest.Durable("nudge")).Close() // so that the broker looks
	expect("session.terminated sub", "session.created nudge", fmt.Sprintf("client.connected nudge v%d clean false keepalive 60 present false remote true", v),
		"client.disconnected nudge known- 0x80 false")
	brokertest.Connect(t, s.Addr, v, brokertest.ClientID("nudge"))
	expect("session.terminated nudge", "session.created nudge", fmt.Sprintf("client.connected nudge v%d clean true keepalive 60 present false remote true", v))
	pub.Disconnect()
	expect("client.disconnected pub known-publisher 0x00 true", "session.terminated pub")
	b := s.Broker
	mustClose(t, s)
	expect("client.disconnected nudge known- 0x8B true", "session.terminated nudge", "node.down n1 shutdown")
	stored := outboxOf(t, st, expected)
	counters := metricsOf(t, b)
	for k := range loopmq.NumEventKinds {
		name := loopmq.EventKind(k).String()
		has := slices.ContainsFunc(stored, func(l string) bool { return strings.HasPrefix(l, name) })
		if got := counters[fmt.Sprintf("loopmq_events_recorded_total{event=%q}", name)]; got == 0 || !has {
			t.Errorf("%s: stored: %t, counted %v", name, has, got)
		}
	}
}

// A message that is dropped for somebody is an event too, with the label of the metric as its reason.
func TestEventsOfDrops(t *testing.T) {
	t.Parallel()
	j := &journal{}
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Limits.QueueMessages = 1
		o.Recorder = j.recorder(loopmq.EventMessageDropped)
	})
	for name, option := range members {
		c := brokertest.Connect(t, s.Addr, codec.V5, option, brokertest.ClientID(name), brokertest.With(codec.PropReceiveMaximum, 1))
		c.Subscribe("t/"+strings.Fields(name)[0], 1)
	}
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	pub.Publish("t/durable", "1", 1)
	pub.Publish("t/durable", "2", 1)
	j.expect(t, "message.dropped durable: t/durable 2 qos1 at qos1: queue_full")
	for i := range 3 {
		pub.Publish("t/in", fmt.Sprint(i), 1)
	}
	j.expect(t, "message.dropped in memory: t/in 2 qos1 at qos1: queue_full")
	small := brokertest.Connect(t, s.Addr, codec.V5, brokertest.ClientID("small"), brokertest.With(codec.PropMaximumPacketSize, 100))
	small.Subscribe("large", 0)
	pub.Publish("large", strings.Repeat("x", 200), 2)
	j.expect(t, "message.dropped small: large xxxxxxxx qos2 at qos0: packet_too_large")
	group := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("group"))
	group.Subscribe("$share/g/group", 1)
	group.Disconnect()
	pub.Publish("group", "1", 1)
	pub.Publish("group", "2", 1)
	j.expect(t, "message.dropped: group 2 qos1 at qos1: queue_full")
}

// What nobody wants is not told.
func TestEventsThatNobodyWants(t *testing.T) {
	t.Parallel()
	for k := range loopmq.NumEventKinds {
		t.Run(loopmq.EventKind(k).String(), func(t *testing.T) {
			t.Parallel()
			s := brokertest.Start(t, func(o *loopmq.Options) {
				o.Authenticator = passwords{}
				o.Recorder = &loopmq.Recorder{
					Wants: func(asked loopmq.EventKind) bool { return asked != loopmq.EventKind(k) },
					Record: func(e *loopmq.Event, to []store.Event) ([]store.Event, bool) {
						if e.Kind == loopmq.EventKind(k) {
							t.Errorf("got %s", line(e))
						}
						return to, false
					},
				}
			})
			bad := brokertest.Dial(t, s.Addr, codec.V5)
			bad.SendConnect(brokertest.Credentials("user", "wrong"))
			bad.ExpectConnack(codec.BadUserNameOrPassword)
			c := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), brokertest.Will("t", "w", 1, false))
			c.Subscribe("t", 1)
			c.Publish("t", "1", 1)
			c.Acknowledge(c.ExpectPublish("t", "1"))
			c.Unsubscribe("t")
			other := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("c"), brokertest.With(codec.PropMaximumPacketSize, 50))
			other.Subscribe("u", 0)
			other.Publish("u", strings.Repeat("x", 100), 1)
			mustClose(t, s)
		})
	}
}

func mustClose(t *testing.T, s *brokertest.Server) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// told counts the calls of a Recorder that has nothing stored, and whether it has to be asked for a topic.
func told(set func() *loopmq.TopicSet) (*loopmq.Recorder, *atomic.Int64) {
	var n atomic.Int64
	r := loopmq.OnEvent(func(*loopmq.Event) { n.Add(1) }, loopmq.EventMessagePublished)
	r.Topics = func(loopmq.EventKind) *loopmq.TopicSet { return set() }
	return r, &n
}

// A Recorder is told of messages whose topics are in its set, which may become another, whether a topic was seen before or not.
func TestTopicSet(t *testing.T) {
	t.Parallel()
	var set atomic.Pointer[loopmq.TopicSet]
	set.Store(loopmq.NewTopicSet("a/+", "long/#"))
	r, n := told(set.Load)
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Recorder, o.Loops = r, 1 })
	c := brokertest.Connect(t, s.Addr, codec.V5)
	publish := func(want int64, topics ...string) {
		t.Helper()
		before := n.Load()
		for range 3 {
			for _, topic := range topics {
				c.Publish(topic, "x", 1)
			}
		}
		if got := n.Load() - before; got != want {
			t.Errorf("%.20q: told %d times, want %d", topics, got, want)
		}
	}
	long := "long/" + strings.Repeat("x", 100)
	publish(9, "a/b", "a/c", "b/c", long)
	set.Store(loopmq.NewTopicSet("b/c"))
	publish(3, "a/b", "a/c", "b/c", long)
	set.Store(nil)
	publish(12, "a/b", "a/c", "b/c", long)
	var many []string
	for i := range 2000 { // more than are remembered
		many = append(many, fmt.Sprint("t/", i))
	}
	set.Store(loopmq.NewTopicSet("t/7", "t/77", "t/777"))
	publish(9, many...)
}

// Recorders that stand for one another are asked as each would be.
func TestRecorders(t *testing.T) {
	t.Parallel()
	if r := loopmq.Recorders(nil, nil); r != nil {
		t.Error("nobody is somebody")
	}
	one := loopmq.OnEvent(func(*loopmq.Event) {}, loopmq.EventNodeUp)
	if loopmq.Recorders(nil, one, nil) != one {
		t.Error("one is another")
	}
	set := loopmq.NewTopicSet("t")
	a, na := told(func() *loopmq.TopicSet { return set })
	both := loopmq.Recorders(one, a)
	for k := range loopmq.EventKind(loopmq.NumEventKinds) {
		if want := k == loopmq.EventNodeUp || k == loopmq.EventMessagePublished; both.Wants(k) != want {
			t.Errorf("%v is wanted: %t", k, !want)
		}
	}
	if both.Topics(loopmq.EventMessagePublished) != set || both.Topics(loopmq.EventNodeUp) != nil {
		t.Error("the set isn't that of who wants the kind")
	}
	b, nb := told(func() *loopmq.TopicSet { return nil })
	b.Record = func(e *loopmq.Event, to []store.Event) ([]store.Event, bool) {
		nb.Add(1)
		return append(to, store.Event{}), true
	}
	for _, r := range []*loopmq.Recorder{loopmq.Recorders(a, b), loopmq.Recorders(b, a)} {
		if r.Topics(loopmq.EventMessagePublished) != nil {
			t.Error("two have a set together")
		}
		out, wait := r.Record(&loopmq.Event{Kind: loopmq.EventMessagePublished}, nil)
		if len(out) != 1 || !wait {
			t.Errorf("got %v, %t", out, wait)
		}
	}
	if na.Load() != 2 || nb.Load() != 2 {
		t.Errorf("told %d and %d times", na.Load(), nb.Load())
	}
	if got := loopmq.EventKind(200).String(); got != "unknown" {
		t.Errorf("got %q", got)
	}
}

// messages has an event stored for each message that is published, under its payload.
func messages(wait bool, maxEntries int) *loopmq.Recorder {
	r := loopmq.OnEvent(func(*loopmq.Event) {}, loopmq.EventMessagePublished)
	r.Record = func(e *loopmq.Event, to []store.Event) ([]store.Event, bool) {
		if strings.HasPrefix(string(e.Message.TopicName), "brokertest/") { // what ExpectNothingFrom sends
			return to, false
		}
		return append(to, store.Event{Endpoint: endpoint, Data: []byte(string(e.Message.Payload)), MaxEntries: maxEntries}), wait
	}
	return r
}

// eventGate lets commits that enqueue events through when it is open.
type eventGate struct {
	store.Store
	mu   sync.RWMutex // locked while it is closed
	held chan struct{}
}

func (g *eventGate) NewWriter(name string) store.Writer {
	return &eventGateWriter{g.Store.NewWriter(name), g}
}

type eventGateWriter struct {
	store.Writer
	g *eventGate
}

func (w *eventGateWriter) Commit(ctx context.Context, b *store.Batch) error {
	if hasOp(store.OpEnqueue)(b) {
		select {
		case w.g.held <- struct{}{}:
		default:
		}
		w.g.mu.RLock()
		defer w.g.mu.RUnlock()
	}
	return w.Writer.Commit(ctx, b)
}

// An acknowledgement waits for the commit of the event if it is to, though nothing else of the message is stored; if not, it doesn't.
func TestAcknowledgementWaitsForEvent(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{false, true} {
		for _, wait := range []bool{false, true} {
			for _, v := range []codec.Version{codec.V311, codec.V5} {
				t.Run(fmt.Sprintf("v%v/wait=%t/early=%t", v, wait, early), func(t *testing.T) {
					t.Parallel()
					g := &eventGate{Store: memory.New(memory.Options{}), held: make(chan struct{}, 1)}
					t.Cleanup(func() { _ = g.Close() })
					s := brokertest.Start(t, func(o *loopmq.Options) {
						o.Store, o.Recorder, o.AcknowledgeEarly = g, messages(wait, 0), early
					})
					sub := brokertest.Connect(t, s.Addr, v)
					sub.Subscribe("t", 0)
					for _, qos := range []byte{1, 2} {
						pub := brokertest.Connect(t, s.Addr, v)
						g.mu.Lock()
						pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: fmt.Append(nil, qos), QoS: qos, PacketID: 7})
						receive(t, "the commit", g.held)
						want := map[byte]codec.PacketType{1: codec.TypePuback, 2: codec.TypePubrec}[qos]
						if wait {
							pub.ExpectNothing() // a ping is answered, and nothing before that
							g.mu.Unlock()
						}
						pub.ExpectAck(want, 7, codec.Success)
						if !wait {
							g.mu.Unlock()
						}
						sub.ExpectPublish("t", fmt.Sprint(qos))
					}
					for qos := range byte(3) { // and so does Publish
						g.mu.Lock()
						done := make(chan error, 1)
						go func() {
							_, err := s.Broker.Publish(context.Background(), loopmq.Message{TopicName: "t", Payload: fmt.Append(nil, "p", qos), QoS: qos})
							done <- err
						}()
						receive(t, "the commit", g.held)
						if wait {
							sub.Ping() // some time passes
							select {
							case err := <-done:
								t.Errorf("Publish has returned (%v) before the event was stored", err)
							default:
							}
							g.mu.Unlock()
						}
						if err := receive(t, "Publish", done); err != nil {
							t.Error(err)
						}
						if !wait {
							g.mu.Unlock()
						}
					}
					outboxOf(t, g.Store, 5)
				})
			}
		}
	}
}

// Events wait for a store that fails, in their order, whoever publishes; a message whose event it is to wait for is refused as if it had
// to be stored itself.
func TestEventsWhileTheStoreFails(t *testing.T) {
	t.Parallel()
	for _, wait := range []bool{false, true} {
		t.Run(fmt.Sprintf("wait=%t", wait), func(t *testing.T) {
			t.Parallel()
			f := &faultyStore{Store: memory.New(memory.Options{})}
			t.Cleanup(func() { _ = f.Close() })
			s := brokertest.Start(t, func(o *loopmq.Options) { o.Store, o.Recorder, o.Loops = f, messages(wait, 0), 1 })
			sub := brokertest.Connect(t, s.Addr, codec.V5)
			sub.Subscribe("t", 1)
			pub := brokertest.Connect(t, s.Addr, codec.V5)
			pub.Publish("t", "before", 1)
			sub.Acknowledge(sub.ExpectPublish("t", "before"))
			var tries atomic.Int32
			f.failCommits(func(b *store.Batch) bool {
				if !hasOp(store.OpEnqueue)(b) {
					return false
				}
				tries.Add(1)
				return true
			})
			want := []string{"before"}
			for i := range 5 { // QoS 0 has nobody to tell
				pub.Publish("t", fmt.Sprint(i), 0)
				sub.ExpectPublish("t", fmt.Sprint(i))
				want = append(want, fmt.Sprint(i))
			}
			reason := codec.Success
			if wait {
				reason = codec.QuotaExceeded
			} else {
				want = append(want, "1")
			}
			pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte("1"), QoS: 1, PacketID: 1})
			pub.ExpectAck(codec.TypePuback, 1, reason)
			sub.Acknowledge(sub.ExpectPublish("t", "1"))
			_, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "t", Payload: []byte("own"), QoS: 0})
			if wait != errors.Is(err, loopmq.ErrNotStored) {
				t.Errorf("Publish: %v", err)
			}
			if !wait {
				want = append(want, "own")
			}
			sub.ExpectPublish("t", "own")
			expectMetric(t, s.Broker, `loopmq_events_dropped_total{reason="store_unavailable"}`, map[bool]float64{true: 2}[wait])
			eventually(t, "commits that are given up", func() bool { return tries.Load() > 10 }) // each is tried four times
			f.failCommits(nil)
			pub.Publish("t", "after", 2)
			sub.Acknowledge(sub.ExpectPublish("t", "after"))
			if got := outboxOf(t, f, len(want)+1); !slices.Equal(got, append(want, "after")) {
				t.Errorf("got %q", got)
			}
		})
	}
}

// An endpoint whose outbox is full holds up nobody; what doesn't get in is counted.
func TestEventsBeyondTheOutbox(t *testing.T) {
	t.Parallel()
	for _, wait := range []bool{false, true} {
		s := brokertest.Start(t, func(o *loopmq.Options) { o.Recorder = messages(wait, 2) })
		pub := brokertest.Connect(t, s.Addr, codec.V5)
		for qos := range byte(3) {
			for range 2 {
				pub.Publish("t", "x", qos)
			}
		}
		expectMetric(t, s.Broker, `loopmq_events_dropped_total{reason="outbox_full"}`, 4)
		expectMetric(t, s.Broker, `loopmq_events_recorded_total{event="message.published"}`, 6)
	}
}

// What waits for a store that hangs is bounded, and nobody is held up for it.
func TestEventsBeyondTheBacklog(t *testing.T) {
	t.Parallel()
	f := &faultyStore{Store: memory.New(memory.Options{})}
	t.Cleanup(func() { _ = f.Close() })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store, o.Recorder, o.Loops = f, messages(false, 0), 1 })
	sub := brokertest.Connect(t, s.Addr, codec.V5)
	sub.Subscribe("t", 0)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	release := f.hold()
	t.Cleanup(release)
	const sent = 20_000
	go func() {
		for range sent / 100 {
			packets := make([]brokertest.Packet, 100)
			for i := range packets {
				packets[i] = &codec.Publish{TopicName: []byte("t"), Payload: []byte("x")}
			}
			pub.Send(packets...)
		}
	}()
	for range sent {
		sub.ExpectPublish("t", "x")
	}
	dropped := metricsOf(t, s.Broker)[`loopmq_events_dropped_total{reason="backlog_full"}`]
	if dropped == 0 || dropped > sent/4 {
		t.Errorf("%v of %d events were dropped", dropped, sent)
	}
	release()
	eventually(t, "the others", func() bool {
		st, err := f.Outbox().State(t.Context(), endpoint)
		return err == nil && st.Matched == sent-uint64(dropped)
	})
	pub.Publish("t", "again", 1) // there is room again
	eventually(t, "one more", func() bool {
		st, err := f.Outbox().State(t.Context(), endpoint)
		return err == nil && st.Matched == sent-uint64(dropped)+1
	})
}

// eventCommits counts the commits that enqueue events.
type eventCommits struct {
	store.Store
	n atomic.Int64
}

func (c *eventCommits) NewWriter(name string) store.Writer {
	return &eventCommitsWriter{c.Store.NewWriter(name), c}
}

type eventCommitsWriter struct {
	store.Writer
	c *eventCommits
}

func (w *eventCommitsWriter) Commit(ctx context.Context, b *store.Batch) error {
	if hasOp(store.OpEnqueue)(b) {
		w.c.n.Add(1)
	}
	return w.Writer.Commit(ctx, b)
}

// Events that nobody waits for share commits, of which there are no more than one in 20 ms; what somebody waits for is committed at once, and
// takes them along.
func TestEventsShareCommits(t *testing.T) {
	t.Parallel()
	c := &eventCommits{Store: memory.New(memory.Options{})}
	t.Cleanup(func() { _ = c.Close() })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store, o.Recorder, o.Loops = c, messages(false, 0), 1 })
	brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("sub")).Subscribe("durable", 1)
	pub := brokertest.Connect(t, s.Addr, codec.V5)
	began := time.Now()
	var want []string
	publish := func(topic string, qos byte) {
		want = append(want, fmt.Sprint(len(want)))
		pub.Publish(topic, want[len(want)-1], qos)
	}
	for range 200 {
		publish("t", 0)
		pub.Ping() // so that each comes alone
	}
	publish("durable", 1)
	got := outboxOf(t, c.Store, len(want))
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n, most := c.n.Load(), 3+time.Since(began)/(20*time.Millisecond); n > int64(most) {
		t.Errorf("%d commits, want at most %d", n, most)
	}
}

// A message that a client sends again since nobody told it that it was stored is told once.
func TestEventOfADuplicate(t *testing.T) {
	t.Parallel()
	f := &faultyStore{Store: memory.New(memory.Options{})}
	t.Cleanup(func() { _ = f.Close() })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store, o.Recorder = f, messages(true, 0) })
	pub := brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("pub"))
	f.loseAnswers(hasOp(store.OpEnqueue))
	pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte("x"), QoS: 2, PacketID: 1})
	pub.ExpectDisconnect(codec.ServerBusy)
	f.loseAnswers(nil)
	pub = brokertest.Connect(t, s.Addr, codec.V5, brokertest.Durable("pub"), brokertest.Resume)
	pub.Send(&codec.Publish{TopicName: []byte("t"), Payload: []byte("x"), QoS: 2, PacketID: 1, Dup: true})
	pub.ExpectAck(codec.TypePubrec, 1, codec.Success)
	outboxOf(t, f, 1)
	if st, err := f.Outbox().State(t.Context(), endpoint); err != nil || st.Matched != 1 {
		t.Errorf("got %+v, %v", st, err)
	}
}
