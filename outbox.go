package loopmq

import (
	"sync"
	"time"

	"loopmq/metrics"
	"loopmq/store"
)

// outbox collects, during one turn of a loop, the messages for clients of
// another loop. It travels as a whole: one wake of the other loop for all of it,
// and one copy of each message however many clients it goes to.
type outbox struct {
	from       *loop
	arena      []byte
	parcels    []parcel
	deliveries []delivery
	bytes      int    // of the messages, in the arena or shared
	last       uint64 // the serial of the publication that the last parcel is made of
}

// parcel is one message in an outbox with its deliveries. The bytes of small
// messages are in the arena, large ones and those that are kept anyway are
// shared.
type parcel struct {
	kept                        *store.Message
	from                        *Session
	publisherID                 string
	expiry                      time.Time
	received                    int64
	offset                      int
	topic, properties, payload  int // lengths
	qos                         byte
	retain                      bool
	firstDelivery, deliveryEnds int
}

const (
	// arenaMessage is the size from which a message is kept and shared rather
	// than copied into the arena.
	arenaMessage = 2 << 10
	// outboxDeliveries and outboxBytes are how large an outbox gets before it is
	// pushed within the turn.
	outboxDeliveries = 2048
	outboxBytes      = 128 << 10
	// mailboxOutboxes and mailboxBytes are how many outboxes, and bytes of their
	// messages, wait for a loop that does not keep up. More collects in one outbox of
	// each other loop, up to as many bytes again.
	mailboxOutboxes = 256
	mailboxBytes    = 16 << 20
	// arenaKept and deliveriesKept are the largest that a free outbox keeps.
	arenaKept      = 2 * outboxBytes
	deliveriesKept = 2 * outboxDeliveries
)

var outboxes = sync.Pool{New: func() any { return new(outbox) }}

// outbox returns the outbox for another loop.
func (l *loop) outbox(to *loop) *outbox {
	o := l.outboxes[to.index]
	if o == nil {
		o = outboxes.Get().(*outbox)
		o.from = l
		l.outboxes[to.index] = o
		l.scheduleOutboxes()
	}
	return o
}

func (l *loop) scheduleOutboxes() {
	if !l.outboxesScheduled {
		l.outboxesScheduled = true
		l.el.AtTurnEnd(l.outboxesDue)
	}
}

// pushOutboxes hands the outboxes of this turn to their loops. One whose mailbox
// is full stays, and is tried again when that loop has emptied it.
func (l *loop) pushOutboxes() {
	l.outboxesScheduled = false
	kept := false
	for i, o := range l.outboxes {
		if o == nil {
			continue
		}
		to := l.b.loops[i]
		if l.push(o, to) {
			continue
		}
		// It may be emptied just now: if so it takes the outbox, else it sees that
		// this loop waits.
		to.waiting[l.index].Store(true)
		kept = !l.push(o, to) || kept
	}
	if kept {
		return
	}
	l.outboxFull = false
	l.unblock(waitMailbox)
	for _, f := range l.roomWaits {
		f()
	}
	l.roomWaits = l.roomWaits[:0]
}

// whenRoom calls f once no other loop is too far behind to get more from this one.
func (l *loop) whenRoom(f func()) {
	if !l.outboxFull {
		f()
		return
	}
	l.roomWaits = append(l.roomWaits, f)
}

// push hands an outbox over, and reports whether there was room.
func (l *loop) push(o *outbox, to *loop) bool {
	if to.inboxBytes.Load() >= mailboxBytes {
		return false
	}
	to.inboxBytes.Add(int64(o.bytes))
	if !to.inbox.Push(o) {
		to.inboxBytes.Add(int64(-o.bytes))
		return false
	}
	l.outboxes[to.index] = nil
	return true
}

// wakeWaiting lets the loops go on whose outboxes had no room in the mailbox.
func (l *loop) wakeWaiting() {
	for i := range l.waiting {
		if l.waiting[i].Load() && l.waiting[i].Swap(false) {
			l.b.loops[i].el.Post(l.b.loops[i].pushOutboxes)
		}
	}
}

// add puts a delivery of p into the outbox.
func (o *outbox) add(p *publication, d *delivery) {
	if len(o.parcels) >= o.from.b.opts.Limits.MailboxMessages || o.bytes >= mailboxBytes {
		if d.qos == 0 {
			o.from.drop(p, d, metrics.DropMailboxFull)
			return
		}
		o.from.outboxFull = true
	}
	if o.last != p.serial || len(o.parcels) == 0 {
		o.begin(p)
	}
	o.deliveries = append(o.deliveries, *d)
	o.parcels[len(o.parcels)-1].deliveryEnds = len(o.deliveries)
	if len(o.deliveries) >= outboxDeliveries || o.bytes >= outboxBytes {
		// Within the turn, so that the other loop begins with it, and the boxes that
		// go round stay small.
		o.from.push(o, d.client.loop)
	}
}

// begin starts the parcel of a message.
func (o *outbox) begin(p *publication) {
	o.last = p.serial
	k := parcel{
		from: p.from, publisherID: p.publisherID, expiry: p.expiry, received: p.received, qos: p.qos, retain: p.retain,
		firstDelivery: len(o.deliveries), deliveryEnds: len(o.deliveries),
	}
	size := p.size()
	o.bytes += size
	if p.kept != nil || size > arenaMessage {
		k.kept = p.keep()
	} else {
		k.offset = len(o.arena)
		k.topic, k.properties, k.payload = len(p.topic), len(p.properties), len(p.payload)
		o.arena = append(append(append(o.arena, p.topic...), p.properties...), p.payload...)
	}
	o.parcels = append(o.parcels, k)
}

// publication makes p the message of a parcel.
func (o *outbox) publication(k *parcel, p *publication) {
	if k.kept != nil {
		p.set(k.kept)
	} else {
		b := o.arena[k.offset:]
		t, q := k.topic, k.topic+k.properties
		*p = publication{
			topic: b[:t], properties: b[t:q], payload: b[q : q+k.payload],
			qos: k.qos, retain: k.retain, expiry: k.expiry, publisherID: k.publisherID,
		}
	}
	p.from, p.received = k.from, k.received
}

// receive is called on the loop with the outboxes that other loops pushed.
func (l *loop) receive(batch []*outbox) {
	var p publication
	bytes := 0
	for _, o := range batch {
		bytes += o.bytes
		for i := range o.parcels {
			k := &o.parcels[i]
			o.publication(k, &p)
			for j := k.firstDelivery; j < k.deliveryEnds; j++ {
				d := &o.deliveries[j]
				if d.client.loop != l {
					l.drop(&p, d, metrics.DropSessionGone)
					continue
				}
				d.client.deliver(&p, d)
			}
		}
		o.release()
	}
	l.inboxBytes.Add(int64(-bytes))
	l.wakeWaiting()
}

// release gives an outbox back.
func (o *outbox) release() {
	clear(o.parcels)
	clear(o.deliveries)
	o.parcels, o.deliveries, o.arena = o.parcels[:0], o.deliveries[:0], o.arena[:0]
	o.from, o.last, o.bytes = nil, 0, 0
	if cap(o.arena) <= arenaKept && cap(o.deliveries) <= deliveriesKept && cap(o.parcels) <= deliveriesKept {
		outboxes.Put(o)
	}
}
