package session

import "loopmq/store"

// Outbound is the sender's side of QoS 1 and 2: a window over the numbered
// messages that were sent to the client and are not finished.
//
// The window is a span of numbers. A Packet Identifier is computed from the
// number, (number - 1 + salt) % 65535 + 1, so it is unique as long as the span is
// shorter than 65535, needs no search for a free one, and is the same after the
// session was resumed on another node. Receive Maximum bounds how many within
// the span are unfinished [MQTT-3.3.4-9].
//
//	finished | sent  done  released  sent | not sent yet
//	          ^head                        ^next
//
// A durable session's numbers are those of its queue in the store, others count
// from 1. The window never spans two generations of a queue.
type Outbound struct {
	ring           []slot // power of two, indexed by number
	head, next     uint64 // the span [head, next)
	generation     uint64
	salt           uint64
	unfinished     int
	receiveMaximum int
	bytes          int // of the unfinished messages, see Weigh
	bytesMax       int // 0: no limit
}

type slot struct {
	state State
	bytes uint32
	entry *store.Entry
}

// State is how far the handshake of one message has come.
type State uint8

const (
	// Unknown: no such message is in the window, or it is finished.
	Unknown State = iota
	// AwaitingPuback: sent at QoS 1.
	AwaitingPuback
	// AwaitingPubrec: sent at QoS 2.
	AwaitingPubrec
	// Releasing: PUBREC was received, and PUBREL waits for the commit.
	Releasing
	// AwaitingPubcomp: PUBREL was sent.
	AwaitingPubcomp
)

// maxSpan keeps Packet Identifiers unique within the window.
const maxSpan = 65535

// NewOutbound returns an empty window. receiveMaximum is the client's Receive
// Maximum, 1 to 65535; bytesMax bounds the bytes of the messages whose PUBACK or
// PUBREC is awaited, 0: it doesn't. A message goes out while they are fewer.
func NewOutbound(receiveMaximum, bytesMax int) Outbound {
	return Outbound{head: 1, next: 1, receiveMaximum: receiveMaximum, bytesMax: bytesMax}
}

// full reports whether nothing more may go out until something is finished.
func (o *Outbound) full() bool {
	return o.unfinished >= o.receiveMaximum || o.bytesMax > 0 && o.bytes >= o.bytesMax
}

// CanSend reports whether one more message may go out.
func (o *Outbound) CanSend() bool {
	return !o.full() && o.next-o.head < maxSpan
}

// CanSendNumber reports whether the entry n of the session's queue may go out.
func (o *Outbound) CanSendNumber(n store.Number) bool {
	if o.full() {
		return false
	}
	if n.Generation != o.generation || o.head == o.next {
		return o.head == o.next
	}
	return n.Seq >= o.next && n.Seq-o.head < maxSpan
}

// Send takes the next number and returns its Packet Identifier. e is kept until
// the message is finished; it may be nil. REQUIRES: CanSend().
func (o *Outbound) Send(qos byte, e *store.Entry) (packetID uint16) {
	return o.put(o.next, stateFor(qos), e)
}

// SendNumber is Send for an entry of the session's queue. Numbers that were
// skipped count as finished. REQUIRES: CanSendNumber(n).
func (o *Outbound) SendNumber(n store.Number, qos byte, e *store.Entry) (packetID uint16) {
	o.rebase(n)
	return o.put(n.Seq, stateFor(qos), e)
}

// Weigh says how many bytes the message of the last Send or SendNumber counts.
func (o *Outbound) Weigh(bytes int) {
	o.ring[(o.next-1)&uint64(len(o.ring)-1)].bytes = uint32(bytes)
	o.bytes += bytes
}

// Resume puts a message into the window whose PUBREC had come before the
// session was resumed, and returns the Packet Identifier of the PUBREL to send
// again [MQTT-4.4.0-1]. It ignores the bound, which the message met when it was
// sent. Resume and SendNumber are called in the order of the numbers. false: the
// number does not fit the window (another generation, or too far from the oldest
// unfinished one); it may be tried again when the window is empty.
func (o *Outbound) Resume(n store.Number) (packetID uint16, ok bool) {
	if o.head != o.next && (n.Generation != o.generation || n.Seq < o.next || n.Seq-o.head >= maxSpan) {
		return 0, false
	}
	o.rebase(n)
	return o.put(n.Seq, AwaitingPubcomp, nil), true
}

// rebase starts an empty window at n.
func (o *Outbound) rebase(n store.Number) {
	if o.head != o.next {
		return
	}
	o.head, o.next = n.Seq, n.Seq
	if n.Generation != o.generation {
		o.generation = n.Generation
		o.salt = salt(n.Generation)
	}
}

// salt spreads generations over the Packet Identifiers, so that a late
// acknowledgement of an old generation is unlikely to meet a new message.
//
// The first generation has none: numbers that begin with 1 give Packet
// Identifiers that do.
func salt(generation uint64) uint64 {
	if generation <= 1 {
		return 0
	}
	generation *= 0x9E3779B97F4A7C15
	return (generation >> 32) % maxSpan
}

func stateFor(qos byte) State {
	if qos == 2 {
		return AwaitingPubrec
	}
	return AwaitingPuback
}

func (o *Outbound) put(n uint64, s State, e *store.Entry) uint16 {
	if need := n - o.head + 1; need > uint64(len(o.ring)) {
		o.grow(need)
	}
	o.ring[n&uint64(len(o.ring)-1)] = slot{state: s, entry: e}
	o.next = n + 1
	o.unfinished++
	return uint16((n-1+o.salt)%maxSpan) + 1
}

func (o *Outbound) grow(need uint64) {
	size := uint64(max(8, len(o.ring)))
	for size < need {
		size *= 2
	}
	ring := make([]slot, size)
	for n := o.head; n < o.next; n++ {
		ring[n&(size-1)] = o.ring[n&uint64(len(o.ring)-1)]
	}
	o.ring = ring
}

// number returns the number of packetID within the span.
func (o *Outbound) number(packetID uint16) (uint64, bool) {
	first := (o.head - 1 + o.salt) % maxSpan
	n := o.head + (uint64(packetID)-1+maxSpan-first)%maxSpan
	return n, packetID != 0 && n < o.next
}

// Number returns the number of the message that packetID names. REQUIRES:
// State(packetID) is not Unknown.
func (o *Outbound) Number(packetID uint16) store.Number {
	n, _ := o.number(packetID)
	return store.Number{Generation: o.generation, Seq: n}
}

// PacketID returns the Packet Identifier of the message with a number, 0 if the window
// has none that is not finished.
func (o *Outbound) PacketID(n store.Number) uint16 {
	if n.Generation != o.generation || n.Seq < o.head || n.Seq >= o.next || o.ring[n.Seq&uint64(len(o.ring)-1)].state == Unknown {
		return 0
	}
	return uint16((n.Seq-1+o.salt)%maxSpan) + 1
}

// UpTo returns the Packet Identifiers of the unfinished messages up to a number, in
// order.
func (o *Outbound) UpTo(last store.Number) (packetIDs []uint16) {
	for n := (store.Number{Generation: o.generation, Seq: o.head}); n.Seq < o.next && !last.Less(n); n.Seq++ {
		if id := o.PacketID(n); id != 0 {
			packetIDs = append(packetIDs, id)
		}
	}
	return packetIDs
}

// State returns how far the message of packetID has come.
func (o *Outbound) State(packetID uint16) State {
	n, ok := o.number(packetID)
	if !ok {
		return Unknown
	}
	return o.ring[n&uint64(len(o.ring)-1)].state
}

// Entry returns the entry that packetID was sent with. REQUIRES: State(packetID) is not
// Unknown.
func (o *Outbound) Entry(packetID uint16) *store.Entry {
	n, _ := o.number(packetID)
	return o.ring[n&uint64(len(o.ring)-1)].entry
}

// Finish ends the handshake of packetID (PUBACK, PUBCOMP, or a PUBREC with an
// error) and returns the message's number and the entry it was sent with.
// REQUIRES: State(packetID) is not Unknown.
func (o *Outbound) Finish(packetID uint16) (store.Number, *store.Entry) {
	n, _ := o.number(packetID)
	e := o.clear(n)
	return store.Number{Generation: o.generation, Seq: n}, e
}

// Unfinished returns the number of the oldest unfinished message, or the next number if
// there is none: entries of a session's queue with smaller ones are finished. It is the
// zero Number where numbers are not those of a store.
func (o *Outbound) Unfinished() store.Number {
	if o.generation == 0 {
		return store.Number{}
	}
	return store.Number{Generation: o.generation, Seq: o.head}
}

// Unsend takes back the last Send or SendNumber: its message did not go out. The
// next one gets the same number.
func (o *Outbound) Unsend() {
	o.next--
	o.clear(o.next)
}

// clear takes a message out of the window.
func (o *Outbound) clear(n uint64) *store.Entry {
	s := &o.ring[n&uint64(len(o.ring)-1)]
	e := s.entry
	o.bytes -= int(s.bytes)
	*s = slot{}
	o.unfinished--
	for o.head < o.next && o.ring[o.head&uint64(len(o.ring)-1)].state == Unknown {
		o.head++
	}
	if o.head == o.next && len(o.ring) > 64 {
		o.ring = nil // a burst is over: an idle session keeps no large window
	}
	return e
}

// SetState moves packetID on to s: Releasing when its PUBREC came,
// AwaitingPubcomp when its PUBREL went out. It drops the entry, which is the
// client's now, and returns the number. REQUIRES: State(packetID) is not Unknown.
func (o *Outbound) SetState(packetID uint16, s State) store.Number {
	n, _ := o.number(packetID)
	sl := &o.ring[n&uint64(len(o.ring)-1)]
	o.bytes -= int(sl.bytes)
	*sl = slot{state: s}
	return store.Number{Generation: o.generation, Seq: n}
}

// Len returns how many messages are unfinished.
func (o *Outbound) Len() int { return o.unfinished }

// Each calls f for each unfinished message in order, with the entry it was sent
// with.
func (o *Outbound) Each(f func(s State, e *store.Entry)) {
	for n := o.head; n < o.next; n++ {
		if s := o.ring[n&uint64(len(o.ring)-1)]; s.state != Unknown {
			f(s.state, s.entry)
		}
	}
}
