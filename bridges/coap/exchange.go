package coapbridge

import (
	"slices"
	"time"
)

const (
	// exchangeLifetime is for how long a Message ID means the same message:
	// EXCHANGE_LIFETIME. [RFC 7252, 4.8.2]
	exchangeLifetime = 247 * time.Second
	// maxTransmitSpan is how long a message is sent again: MAX_TRANSMIT_SPAN.
	maxTransmitSpan = 45 * time.Second
	// exchangesPerPeer is how many messages of a peer are known again.
	exchangesPerPeer = 4096
	// answerMax is how large an answer is that is kept in any case. Those to GET that are
	// larger are kept within Options.BodiesBytes: to read again does no harm.
	answerMax = 256
)

// exchange is a request that is known again.
type exchange struct {
	id     uint16
	hash   uint64 // of the datagram: a repetition is the same to the last bit
	at     time.Time
	answer []byte // nil: there is none yet, or it needs none
	read   bool   // it changes nothing
	// forgotten: the answer wasn't kept, so it is found again.
	forgotten bool
	charged   int64 // of the budget
}

// exchanges are those of a peer, under its lock.
type exchanges struct {
	byID   map[uint16]*exchange
	inTurn []*exchange // the oldest first; those that were removed are in it too
	writes int         // how many change something
}

// find returns the exchange that a datagram repeats, or nil.
func (xs *exchanges) find(id uint16, hash uint64, now time.Time) *exchange {
	x := xs.byID[id]
	if x == nil || x.hash != hash || now.Sub(x.at) > exchangeLifetime {
		return nil
	}
	return x
}

// add remembers a request. It returns nil if there is no room.
func (xs *exchanges) add(b *Bridge, id uint16, hash uint64, now time.Time) *exchange {
	if old := xs.byID[id]; old != nil {
		xs.remove(b, old)
	}
	for len(xs.byID) >= exchangesPerPeer || b.exchanges.Load() >= int64(b.opts.Exchanges) {
		if len(xs.inTurn) == 0 || now.Sub(xs.inTurn[0].at) < maxTransmitSpan && len(xs.byID) < exchangesPerPeer {
			return nil
		}
		xs.removeFirst(b)
	}
	if xs.byID == nil {
		xs.byID = make(map[uint16]*exchange)
	}
	x := &exchange{id: id, hash: hash, at: now}
	xs.byID[id] = x
	if len(xs.inTurn) >= 2*len(xs.byID)+16 { // most of them were removed
		xs.inTurn = slices.DeleteFunc(xs.inTurn, func(x *exchange) bool { return xs.byID[x.id] != x })
	}
	xs.inTurn = append(xs.inTurn, x)
	xs.writes++
	b.exchanges.Add(1)
	return x
}

// done notes the answer.
func (xs *exchanges) done(b *Bridge, x *exchange, answer []byte, read bool) {
	if xs.byID[x.id] != x {
		return
	}
	if read {
		x.read = true
		xs.writes--
	}
	if read && len(answer) > answerMax {
		if !b.bodies.take(int64(len(answer))) {
			x.forgotten = true
			return
		}
		x.charged = int64(len(answer))
	}
	x.answer = answer
}

// harmless reports whether it would do no harm if all were forgotten.
func (xs *exchanges) harmless() bool { return xs.writes == 0 }

func (xs *exchanges) remove(b *Bridge, x *exchange) {
	if xs.byID[x.id] != x {
		return
	}
	delete(xs.byID, x.id)
	if !x.read {
		xs.writes--
	}
	b.bodies.give(x.charged)
	x.charged, x.answer = 0, nil
	b.exchanges.Add(-1)
}

func (xs *exchanges) removeFirst(b *Bridge) {
	xs.remove(b, xs.inTurn[0])
	xs.inTurn[0] = nil
	xs.inTurn = xs.inTurn[1:]
}

// expire forgets what can't be repeated any more.
func (xs *exchanges) expire(b *Bridge, now time.Time) {
	for len(xs.inTurn) > 0 && (now.Sub(xs.inTurn[0].at) > exchangeLifetime || xs.byID[xs.inTurn[0].id] != xs.inTurn[0]) {
		xs.removeFirst(b)
	}
	if len(xs.byID) == 0 {
		xs.byID, xs.inTurn = nil, nil
	}
}

func (xs *exchanges) clear(b *Bridge) {
	for len(xs.inTurn) > 0 {
		xs.removeFirst(b)
	}
	xs.byID, xs.inTurn = nil, nil
}
