//go:build linux

package loadtest

import (
	"fmt"
)

// A replay is how a subscriber of a Retained scenario gets its messages: it subscribes, waits for each of them, unsubscribes, and
// does it again.
type replay struct {
	seen     []uint64 // bits, by number
	missing  int
	asked    int64 // when it subscribed; 0 if it waits for nothing
	progress int64 // when the last message came
	granted  bool  // SUBACK came
	leaving  bool  // UNSUBACK is awaited
}

func newReplay(topics int) *replay {
	return &replay{seen: make([]uint64, (topics+63)/64)}
}

// interrupted forgets a replay whose connection has ended, and returns how many messages needn't be waited for.
func (r *replay) interrupted() uint64 {
	n := 0
	if r.asked != 0 {
		n = r.missing
	}
	r.asked, r.leaving, r.granted = 0, false, false
	return uint64(n)
}

// retainedFilter is what subscribers subscribe to.
func (f *flow) retainedFilter() string { return f.topic + "/+" }

// pumpRetained publishes the retained messages of p: those whose number modulo the number of publishers is its own.
func (s *section) pumpRetained(p *publisher) {
	for {
		n := int(p.number)*s.Publishers + p.index
		if n >= s.Topics || !s.room(p) {
			return
		}
		var id uint16
		due := s.loop.now
		if s.QoS > 0 {
			id = p.flights.push(p.number, due)
			s.loop.underWay++
		}
		s.sendRetained(p, n, due, id)
		p.number++
		s.loop.counts.sent++
	}
}

func (s *section) sendRetained(p *publisher, n int, due int64, id uint16) {
	c := p.client
	head, idAt := publishHead(s.Version, s.QoS, flagRetain, s.topicOf(n), s.Payload)
	if s.QoS > 0 {
		head[idAt], head[idAt+1] = byte(id>>8), byte(id)
	}
	b := append(s.loop.output(c), head...)
	b = stamp{uint32(p.index), uint32(n), due}.append(b)
	c.out = append(b, s.filler...)
}

// published says whether all retained messages of the section are sent.
func (s *section) published() bool {
	for _, p := range s.publishers {
		if int(p.number)*s.Publishers+p.index < s.Topics && !p.client.gone {
			return false
		}
	}
	return true
}

// clearRetained deletes the retained messages [MQTT-3.3.1-6].
func (s *section) clearRetained() {
	for _, p := range s.publishers {
		if p.client.state != up {
			continue
		}
		for n := p.index; n < s.Topics; n += s.Publishers {
			head, _ := publishHead(s.Version, 0, flagRetain, s.topicOf(n), 0)
			p.client.out = append(s.loop.output(p.client), head...)
		}
	}
}

// ask subscribes.
func (l *loop) ask(c *client) {
	s, r := c.section, c.subscriber.replay
	clear(r.seen)
	r.missing, r.asked, r.progress, r.granted = s.Topics, l.now, l.now, false
	c.packetID = c.packetID%65535 + 1
	c.out = appendSubscribe(l.output(c), s.Version, c.packetID, s.QoS, []string{s.retainedFilter()})
	l.owed += uint64(s.Topics)
	l.counts.expected += uint64(s.Topics)
}

// replay takes a retained message.
func (l *loop) replay(c *client, first byte, st stamp) {
	s, r := c.section, c.subscriber.replay
	n := int(st.number)
	switch {
	case n >= s.Topics || int(st.publisher) != n%s.Publishers:
		s.audit.Promised.Corrupted++
		return
	case first&flagRetain == 0: // [MQTT-3.3.1-8]
		l.fault("a retained message without RETAIN", c.clientID())
	}
	if r.asked == 0 || r.seen[n/64]>>(n%64)&1 != 0 {
		s.audit.Promised.Duplicated++
		return
	}
	r.seen[n/64] |= 1 << (n % 64)
	r.missing--
	r.progress = l.now
	l.got++
	l.progress++
	l.counts.delivered++
	record(l.counts.deliver, l.now-r.asked)
	l.complete(c)
}

// complete goes on when all is there.
func (l *loop) complete(c *client) {
	s, r := c.section, c.subscriber.replay
	if r.missing > 0 || !r.granted || r.leaving {
		return
	}
	record(l.counts.reply, l.now-r.asked)
	l.counts.retained++
	s.promise(uint64(s.Topics), 0)
	l.unask(c)
}

// promise counts what became of messages.
func (s *section) promise(expected, lost uint64) {
	t := &s.audit.Promised
	if s.QoS == 0 {
		t = &s.audit.MayDrop
	}
	t.Expected += expected
	t.Lost += lost
}

func (l *loop) unask(c *client) {
	s, r := c.section, c.subscriber.replay
	r.asked, r.leaving = 0, true
	c.packetID = c.packetID%65535 + 1
	c.out = appendUnsubscribe(l.output(c), s.Version, c.packetID, []string{s.retainedFilter()})
}

// replayed takes SUBACK and UNSUBACK.
func (l *loop) replayed(c *client, first byte, body []byte) error {
	s, r := c.section, c.subscriber.replay
	switch {
	case first == typeSuback && r.asked != 0 && !r.granted:
		r.granted = true
		if err := readSuback(s.Version, body, s.QoS); err != nil {
			return err
		}
		l.complete(c)
	case first == typeUnsuback && r.leaving:
		r.leaving = false
		if s.running {
			l.ask(c)
		}
	default:
		return fmt.Errorf("unexpected packet type %d", first>>4)
	}
	return nil
}

// lookReplay gives up a replay that makes no progress.
func (l *loop) lookReplay(c *client) {
	s, r := c.section, c.subscriber.replay
	if r.asked != 0 && l.now-r.progress > int64(s.Drain) {
		l.got += uint64(r.missing) // they aren't waited for
		s.promise(uint64(s.Topics), uint64(r.missing))
		l.unask(c)
	}
}
