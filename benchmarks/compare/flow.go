//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"loopmq/benchmarks/process"
)

const (
	payloadBytes = 64
	// What a payload begins with: who published it (4 bytes), its number there (8), and when it was due in an open loop (8).
	numberAt = 4
	dueAt    = 12
)

// A flow sends messages through a broker and checks each one that comes back.
//
// In a closed loop a publisher has at most window messages under way: neither unacknowledged nor not yet delivered everywhere. So
// nothing has to be dropped, by a queue limit or by a full socket, and the load is what the broker can do. In an open loop messages
// are due at fixed times whatever the broker does, and a latency counts from then: a broker that stalls can't hide it by
// slowing the generator (no coordinated omission).
type flow struct {
	scenario
	g          *generator
	publishers []publisher
	waiting    []*publisher // may have room in their window
	perMessage int          // deliveries of one message
	stopped    bool         // send no more

	sent, delivered uint64 // deliveries owed and seen
	unacked         int    // handshakes under way, on either side

	// Open loop.
	period    int64 // nanoseconds between two messages
	due       int64
	next      int     // publisher of the next message
	since     int64   // latencies of messages due later than this are kept
	latencies []int64 // nanoseconds
}

// A publisher is the state of one publishing client.
type publisher struct {
	conn      *conn
	window    int
	template  []byte
	idAt      int
	payloadAt int
	waiting   bool // in flow.waiting

	packetID    uint16
	unacked     int
	undelivered int    // deliveries
	number      uint64 // of the next message
	expect      uint64 // number of the next delivery, where its messages go to one subscriber
	delivered   uint64 // deliveries seen
	sum         uint64 // of the numbers delivered
}

// newFlow connects the clients of s to the broker behind g.
func newFlow(g *generator, s scenario) (*flow, error) {
	f := &flow{scenario: s, g: g, publishers: make([]publisher, s.publishers), perMessage: 1}
	if s.shape == fanOut {
		f.perMessage = s.subscribers
	}
	if s.rate > 0 {
		f.period = int64(time.Second) / int64(s.rate)
	}
	clients := make([]client, 0, s.publishers+s.subscribers)
	for i := range s.subscribers {
		clients = append(clients, client{clientID: fmt.Sprintf("compare-sub-%05d", i), filter: s.filter(i), qos: s.qos, durable: s.durable})
	}
	for i := range f.publishers {
		p := &f.publishers[i]
		p.template, p.idAt, p.payloadAt = publishTemplate(g.version, s.qos, s.topic(i), payloadBytes)
		binary.BigEndian.PutUint32(p.template[p.payloadAt:], uint32(i))
		clients = append(clients, client{clientID: fmt.Sprintf("compare-pub-%05d", i), publisher: p})
	}
	if err := g.establish(clients); err != nil {
		return nil, err
	}
	for i := range f.publishers {
		p := &f.publishers[i]
		p.window = s.window
		if s.qos > 0 {
			p.window = min(s.window, p.conn.receiveMaximum) // [MQTT-4.9.0-2]
		}
	}
	g.handler = f
	return f, nil
}

// run sends for warmUp, measures for length, and then waits for what is under way. An error means that the figures don't count.
func (f *flow) run(target process.Process, warmUp, length time.Duration) (sample, error) {
	for i := range f.publishers {
		f.wake(&f.publishers[i])
	}
	f.due = f.g.now()
	f.since = f.due + int64(warmUp)
	if f.period > 0 {
		f.latencies = make([]int64, 0, int64(length)/f.period+1024)
	}
	if err := f.drive(warmUp); err != nil {
		return sample{}, err
	}
	m, err := startMeter(target, f.g)
	if err != nil {
		return sample{}, err
	}
	before := f.delivered
	if err := f.drive(length); err != nil {
		return sample{}, err
	}
	s, err := m.stop(f.delivered - before)
	if err != nil {
		return sample{}, err
	}
	if err := f.drain(); err != nil {
		return sample{}, err
	}
	s.Expected, s.Delivered = f.sent, f.delivered
	s.latencies(f.latencies)
	return s, f.verify()
}

// drive keeps the load up for d, and until something has been delivered.
func (f *flow) drive(d time.Duration) error {
	end := f.g.now() + int64(d)
	progress, seen, before := f.g.now(), f.delivered, f.delivered
	for {
		now := f.g.now()
		if now >= end && f.delivered > before {
			return nil
		}
		if f.delivered != seen {
			progress, seen = now, f.delivered
		} else if now-progress > int64(f.g.patience) {
			return f.missing()
		}
		timeout := turnMax
		if f.period > 0 {
			timeout = time.Duration(f.due - now)
		}
		if err := f.g.turn(timeout); err != nil {
			return err
		}
	}
}

// drain stops sending and waits until everything is delivered and acknowledged.
func (f *flow) drain() error {
	f.stopped = true
	progress, seen, unacked := f.g.now(), f.delivered, f.unacked
	for f.delivered < f.sent || f.unacked > 0 {
		if err := f.g.turn(turnMax); err != nil {
			return err
		}
		if f.delivered != seen || f.unacked != unacked {
			progress, seen, unacked = f.g.now(), f.delivered, f.unacked
		} else if f.g.now()-progress > int64(f.g.patience) {
			return f.missing()
		}
	}
	return nil
}

func (f *flow) missing() error {
	return fmt.Errorf("no progress for %v with %d of %d deliveries made and %d handshakes open", f.g.patience, f.delivered, f.sent, f.unacked)
}

// verify checks per publisher what packet checked per delivery where the order is known.
func (f *flow) verify() error {
	for i := range f.publishers {
		p := &f.publishers[i]
		want := p.number * uint64(f.perMessage)
		sum := p.number * (p.number - 1) / 2 * uint64(f.perMessage) // right for 0 as well
		if p.delivered != want || p.sum != sum {
			return fmt.Errorf("publisher %d: %d of %d deliveries, sum of their numbers %d instead of %d", i, p.delivered, want, p.sum, sum)
		}
	}
	return nil
}

// packet implements handler.
func (f *flow) packet(c *conn, first byte, body []byte) error {
	if first&0xF0 == typePublish {
		return f.delivery(c, first, body)
	}
	if len(body) < 2 {
		return errMalformed
	}
	if len(body) > 2 && body[2] >= 0x80 {
		return fmt.Errorf("packet type %d with Reason Code 0x%02X", first>>4, body[2])
	}
	switch first {
	case typePuback, typePubcomp:
		p := c.publisher
		if p == nil || p.unacked == 0 {
			return fmt.Errorf("unexpected packet type %d", first>>4)
		}
		p.unacked--
		f.unacked--
		f.wake(p)
	case typePubrec:
		c.out = appendAck(c.out, typePubrel, body)
		f.g.markDirty(c)
	case typePubrel:
		f.unacked--
		c.out = appendAck(c.out, typePubcomp, body)
		f.g.markDirty(c)
	default:
		return fmt.Errorf("unexpected packet type %d", first>>4)
	}
	return nil
}

// delivery checks a PUBLISH from the broker and acknowledges it.
func (f *flow) delivery(c *conn, first byte, body []byte) error {
	id, payload, err := splitPublish(f.g.version, first, body)
	if err != nil {
		return err
	}
	if qos := first >> 1 & 3; qos != f.qos || len(payload) != payloadBytes {
		return fmt.Errorf("PUBLISH with QoS %d and %d bytes", qos, len(payload))
	}
	from := binary.BigEndian.Uint32(payload)
	if from >= uint32(len(f.publishers)) {
		return errors.New("PUBLISH that nobody sent")
	}
	p := &f.publishers[from]
	number := binary.BigEndian.Uint64(payload[numberAt:])
	switch f.shape {
	case p2p, fanIn:
		err = inOrder(&p.expect, number)
	case fanOut:
		err = inOrder(&c.expect, number)
	}
	if err != nil {
		return err
	}
	if p.undelivered == 0 {
		return fmt.Errorf("message %d of publisher %d came twice", number, from)
	}
	p.undelivered--
	p.delivered++
	p.sum += number
	f.delivered++
	if f.period > 0 {
		if due := int64(binary.BigEndian.Uint64(payload[dueAt:])); due >= f.since {
			f.latencies = append(f.latencies, f.g.now()-due)
		}
	}
	switch f.qos {
	case 1:
		c.out = appendAck(c.out, typePuback, id)
		f.g.markDirty(c)
	case 2:
		f.unacked++
		c.out = appendAck(c.out, typePubrec, id)
		f.g.markDirty(c)
	}
	f.wake(p)
	return nil
}

// inOrder checks that number is the next one [MQTT-4.6.0-6].
func inOrder(expect *uint64, number uint64) error {
	if number != *expect {
		return fmt.Errorf("message %d came where %d was due: lost, doubled or out of order", number, *expect)
	}
	*expect++
	return nil
}

// wake has the publisher's window looked at when the turn has been read.
func (f *flow) wake(p *publisher) {
	if !p.waiting {
		p.waiting = true
		f.waiting = append(f.waiting, p)
	}
}

// turn implements handler: it sends what windows, or the clock, allow.
func (f *flow) turn() {
	for _, p := range f.waiting {
		p.waiting = false
		for f.period == 0 && !f.stopped && p.unacked < p.window && p.undelivered <= (p.window-1)*f.perMessage {
			f.publish(p, 0)
		}
	}
	f.waiting = f.waiting[:0]
	if f.period == 0 || f.stopped {
		return
	}
	for now := f.g.now(); f.due <= now; f.due += f.period {
		f.publish(&f.publishers[f.next], f.due)
		f.next = (f.next + 1) % len(f.publishers)
	}
}

// publish sends p's next message.
func (f *flow) publish(p *publisher, due int64) {
	c := p.conn
	at := len(c.out)
	c.out = append(c.out, p.template...)
	packet := c.out[at:]
	if f.qos > 0 {
		// The window is far below 65,535: a Packet Identifier is free again when its turn comes.
		p.packetID = p.packetID%65535 + 1
		binary.BigEndian.PutUint16(packet[p.idAt:], p.packetID)
		p.unacked++
		f.unacked++
	}
	binary.BigEndian.PutUint64(packet[p.payloadAt+numberAt:], p.number)
	binary.BigEndian.PutUint64(packet[p.payloadAt+dueAt:], uint64(due))
	p.number++
	p.undelivered += f.perMessage
	f.sent += uint64(f.perMessage)
	f.g.markDirty(c)
}
