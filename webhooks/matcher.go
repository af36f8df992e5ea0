package webhooks

import (
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/store"
	"loopmq/trie"
)

// Matcher finds the endpoints that an event is for, and makes the records of it that go into their outboxes. It comes
// before the Broker, whose Options take its Recorder. Its methods are safe for concurrent use.
//
// It is asked about each message, so an event that is for nobody costs a lookup in a trie, and no allocation.
type Matcher struct {
	targets atomic.Pointer[targets]
	scratch sync.Pool // of *trie.Matches[*target]

	// Ids of events are a random number of this Matcher, and how many there were.
	prefix [8]byte
	events atomic.Uint64
}

// targets are the endpoints by the kinds of events that they want. It isn't changed once it is in use.
type targets [loopmq.NumEventKinds]struct {
	wanted  bool
	all     []*target           // whatever the topic is
	byTopic *trie.Trie[*target] // nil: none
	topics  *loopmq.TopicSet    // of byTopic, if there is nobody in all; nil: any topic
}

// target is an endpoint in the eyes of a Matcher.
type target struct {
	event     store.Event // but for Data
	clientIDs []string
	usernames []string
	noPayload bool
	wait      bool
}

// NewMatcher returns a Matcher for endpoints with their defaults set.
func NewMatcher(endpoints []*Endpoint) *Matcher {
	m := &Matcher{scratch: sync.Pool{New: func() any { return new(trie.Matches[*target]) }}}
	_, _ = rand.Read(m.prefix[:]) // It can't fail.
	m.Set(endpoints)
	return m
}

// Set puts other endpoints in the place of those that there are. Events that are being matched may go to the former
// ones.
func (m *Matcher) Set(endpoints []*Endpoint) {
	all := new(targets)
	var filters [loopmq.NumEventKinds][]string
	for _, e := range endpoints {
		t := &target{
			event:     store.Event{Endpoint: e.Name, MaxEntries: e.MaxQueued, MaxBytes: e.MaxQueuedBytes},
			clientIDs: slices.Clone(e.ClientIDs),
			usernames: slices.Clone(e.Usernames),
			noPayload: e.Payload == PayloadNone,
			wait:      e.Durability == Outbox,
		}
		for k := range all {
			kind := loopmq.EventKind(k)
			if !slices.ContainsFunc(e.Events, func(pattern string) bool { return matchesKind(pattern, kind.String()) }) {
				continue
			}
			of := &all[k]
			of.wanted = true
			if len(e.TopicFilters) == 0 || !hasTopic(kind) {
				of.all = append(of.all, t)
				continue
			}
			if of.byTopic == nil {
				of.byTopic = trie.New[*target]()
			}
			for _, f := range e.TopicFilters {
				of.byTopic.Subscribe(strings.Clone(f), t, trie.Options{})
				filters[k] = append(filters[k], strings.Clone(f))
			}
		}
	}
	for k := range all {
		if of := &all[k]; of.byTopic != nil && len(of.all) == 0 {
			of.topics = loopmq.NewTopicSet(filters[k]...)
		}
	}
	m.targets.Store(all)
}

// hasTopic is whether events of a kind have a Topic Name or a Topic Filter.
func hasTopic(k loopmq.EventKind) bool {
	switch k {
	case loopmq.EventSessionSubscribed, loopmq.EventSessionUnsubscribed, loopmq.EventMessagePublished, loopmq.EventMessageDelivered,
		loopmq.EventMessageAcked, loopmq.EventMessageDropped, loopmq.EventWillPublished:
		return true
	}
	return false
}

// Recorder returns what the Broker's Options take.
func (m *Matcher) Recorder() *loopmq.Recorder {
	return &loopmq.Recorder{
		Wants:  func(k loopmq.EventKind) bool { return m.targets.Load()[k].wanted },
		Topics: func(k loopmq.EventKind) *loopmq.TopicSet { return m.targets.Load()[k].topics },
		Record: m.record,
	}
}

// record is the Recorder's Record.
func (m *Matcher) record(e *loopmq.Event, to []store.Event) (out []store.Event, wait bool) {
	of := &m.targets.Load()[e.Kind]
	w := writer{m: m, e: e, out: to}
	for _, t := range of.all {
		w.add(t)
	}
	if of.byTopic == nil {
		return w.out, w.wait
	}
	found := m.scratch.Get().(*trie.Matches[*target])
	of.byTopic.Match(topicOf(e), found)
	for i := range found.Subscribers {
		t := found.Subscribers[i].Subscriber
		if found.Filters == 1 || !slices.ContainsFunc(found.Subscribers[:i], func(o trie.Match[*target]) bool { return o.Subscriber == t }) {
			w.add(t)
		}
	}
	found.Reset() // not to keep endpoints that are gone
	m.scratch.Put(found)
	return w.out, w.wait
}

// topicOf is the Topic Name of an event, or its Topic Filter, which is matched as if it were one: what matches covers it.
func topicOf(e *loopmq.Event) []byte {
	switch {
	case e.Message != nil:
		return e.Message.TopicName
	case e.TopicFilter != "":
		_, filter, _ := codec.SplitShare([]byte(e.TopicFilter))
		return filter
	}
	return nil
}

// writer collects what goes into outboxes because of one event.
type writer struct {
	m    *Matcher
	e    *loopmq.Event
	out  []store.Event
	wait bool

	// The event's record, made when it is needed, for all endpoints that get the same.
	whole, noPayload []byte
	id               uint64 // of the event, less the prefix; 0: none yet
}

func (w *writer) add(t *target) {
	if !t.wantsClient(w.e.Client) {
		return
	}
	data := &w.whole
	if t.noPayload && w.e.Message != nil {
		data = &w.noPayload
	}
	if *data == nil {
		*data = w.encode(data == &w.whole)
	}
	event := t.event
	event.Data = *data
	w.out = append(w.out, event)
	w.wait = w.wait || t.wait
}

func (t *target) wantsClient(c *loopmq.ClientInfo) bool {
	switch {
	case len(t.clientIDs) == 0 && len(t.usernames) == 0:
		return true
	case c == nil:
		return false
	}
	return wants(t.clientIDs, c.ClientID) && wants(t.usernames, c.Username)
}

func wants(patterns []string, s string) bool {
	for _, p := range patterns {
		if like(p, s) {
			return true
		}
	}
	return len(patterns) == 0
}

// like is whether s is like a pattern, in which * stands for any text.
func like(pattern, s string) bool {
	begin, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return s == pattern
	}
	s, ok := strings.CutPrefix(s, begin)
	for ok {
		var part string
		if part, rest, wild = strings.Cut(rest, "*"); !wild {
			return strings.HasSuffix(s, part)
		}
		_, s, ok = strings.Cut(s, part) // the first one leaves most for the others
	}
	return false
}

// encode returns the record of the event.
func (w *writer) encode(payload bool) []byte {
	e := w.e
	if w.id == 0 {
		w.id = w.m.events.Add(1)
	}
	r := record{kind: e.Kind.String(), at: e.At, node: e.Node, reasonCode: e.ReasonCode, reason: e.Reason, topicFilter: e.TopicFilter, packetID: e.PacketID}
	copy(r.id[:], w.m.prefix[:])
	binary.BigEndian.PutUint64(r.id[8:], w.id)
	if hasReason(e.Kind) {
		r.flags |= flagReasonCode
	}
	if e.SessionPresent {
		r.flags |= flagSessionPresent
	}
	if c := e.Client; c != nil {
		r.client(c)
	}
	if e.Kind == loopmq.EventSessionSubscribed {
		r.options = options(e.Options)
	}
	if m := e.Message; m != nil {
		r.message(m, e, payload)
	}
	return r.encode()
}

// hasReason is whether events of a kind have a Reason Code.
func hasReason(k loopmq.EventKind) bool {
	switch k {
	case loopmq.EventClientDisconnected, loopmq.EventClientAuthFailed, loopmq.EventMessageAcked:
		return true
	}
	return false
}

func (r *record) client(c *loopmq.ClientInfo) {
	r.clientID, r.username, r.listener, r.version, r.keepAlive = c.ClientID, c.Username, c.Listener, c.ProtocolVersion, c.KeepAlive
	if c.CleanStart {
		r.flags |= flagCleanStart
	}
	if a := c.RemoteAddr(); a != nil {
		r.remoteAddr = addrText(a)
	}
}

// addrText is a.String, at a third of its cost for what most clients have.
func addrText(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp.Zone != "" {
		return a.String()
	}
	from := tcp.AddrPort()
	var buf [48]byte
	return string(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).AppendTo(buf[:0]))
}

func (r *record) message(m *loopmq.MessageView, e *loopmq.Event, payload bool) {
	r.topicName, r.qos, r.properties = m.TopicName, m.QoS, m.ForwardProperties()
	switch e.Kind {
	case loopmq.EventMessageDelivered, loopmq.EventMessageAcked, loopmq.EventMessageDropped:
		r.qos = e.QoS
	}
	if m.Retain {
		r.flags |= flagRetain
	}
	if payload {
		r.payload = m.Payload
		if r.payload == nil {
			r.payload = []byte{}
		}
	}
	if !m.Expiry.IsZero() {
		left := (m.Expiry.Sub(e.At) + time.Second - 1) / time.Second
		r.expiry = uint32(max(1, min(left, 1<<32-1)))
	}
	if m.PublisherID != r.clientID {
		r.publisher = m.PublisherID
	}
}

// options are those of a subscription as they stand in SUBSCRIBE.
func options(o codec.SubscriptionOptions) byte {
	b := o.QoS | o.RetainHandling<<4
	if o.NoLocal {
		b |= 4
	}
	if o.RetainAsPublished {
		b |= 8
	}
	return b
}
