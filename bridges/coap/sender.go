package coapbridge

import (
	"runtime"
	"sync"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq/codec"
	"loopmq/metrics"
)

// senders send what observers are to be told: event loops, which give it, never write to
// a socket.
type senders struct {
	mu   sync.Mutex
	some *sync.Cond
	// peers that have something to send, each once at most.
	peers []*peer
	over  bool
	wait  sync.WaitGroup
}

func (s *senders) start(b *Bridge) {
	s.some = sync.NewCond(&s.mu)
	for range max(2, runtime.GOMAXPROCS(0)) {
		s.wait.Go(func() {
			for p := s.next(); p != nil; p = s.next() {
				p.drain()
			}
		})
	}
}

func (s *senders) put(p *peer) {
	s.mu.Lock()
	s.peers = append(s.peers, p)
	s.mu.Unlock()
	s.some.Signal()
}

// next returns the next peer, nil at the end.
func (s *senders) next() *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.peers) == 0 && !s.over {
		s.some.Wait()
	}
	if s.over {
		return nil
	}
	p := s.peers[0]
	s.peers[0] = nil
	if s.peers = s.peers[1:]; len(s.peers) == 0 {
		s.peers = nil
	}
	return p
}

func (s *senders) stop() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.some.Broadcast()
	s.wait.Wait()
}

// schedule has a sender look at the peer, if there is something to send. o is what may
// have something new; nil: none has.
func (p *peer) schedule(o *observation) {
	p.mu.Lock()
	if o != nil && o.peer.Load() == p && o.canSend() && !o.isReady {
		o.isReady = true
		p.mu.ready = append(p.mu.ready, o)
	}
	now := len(p.mu.ready) > 0 && !p.mu.scheduled && p.mu.confirmables < p.b.opts.NStart && !p.mu.over
	p.mu.scheduled = p.mu.scheduled || now
	p.mu.Unlock()
	if now {
		p.b.senders.put(p)
	}
}

// canSend reports whether the next message can go out. REQUIRES: the peer's lock
func (o *observation) canSend() bool {
	return !o.over && !o.held && o.lastSent == nil && len(o.queue) > 0
}

// drain sends until there is nothing, or NSTART messages wait for their
// acknowledgements. [RFC 7252, 4.7]
func (p *peer) drain() {
	for {
		p.mu.Lock()
		if len(p.mu.ready) == 0 || p.mu.confirmables >= p.b.opts.NStart || p.mu.over {
			p.mu.scheduled = false
			p.mu.Unlock()
			return
		}
		o := p.mu.ready[0]
		p.mu.ready[0] = nil
		if p.mu.ready = p.mu.ready[1:]; len(p.mu.ready) == 0 {
			p.mu.ready = nil
		}
		if o.peer.Load() != p { // it has moved
			p.mu.Unlock()
			continue
		}
		if o.isReady = false; !o.canSend() {
			p.mu.Unlock()
			continue
		}
		n := o.queue[0]
		out := &outgoing{id: p.nextIDLocked(), observation: o, notification: n, left: p.b.opts.MaxRetransmit}
		confirmable := !n.id.IsZero() || !p.mu.verified || time.Since(o.confirmed) > confirmEvery
		o.lastSent, o.confirmable, o.lastID = n, confirmable, out.id
		o.inflight, o.transfer = true, true
		p.mu.Unlock()
		p.notify(o, n, out, confirmable)
	}
}

// notify sends a message to an observer.
func (p *peer) notify(o *observation, n *notification, out *outgoing, confirmable bool) {
	r := o.response(n)
	if r == nil { // it has expired
		o.sent(n, false, false)
		return
	}
	if !acceptable(o.accept, r.format) { // which ends it [RFC 7641, 4.2]
		o.farewell(errNotAcceptable)
		o.s.end(o, metrics.CoAPCancelled)
		return
	}
	t := coap.NonConfirmable
	if confirmable {
		t = coap.Confirmable
	}
	var more bool
	for szx := int(o.szx); ; szx-- {
		if szx < 0 { // until the address is verified, not even a small block may be sent
			p.mu.Lock()
			o.lastSent, o.inflight, o.transfer = nil, false, false
			verified := p.mu.verified // meanwhile
			p.mu.Unlock()
			p.b.metrics.CoAPIgnored[metrics.CoAPUnverified].Inc()
			if verified {
				p.schedule(o)
			}
			return
		}
		if out.data, more = r.encode(t, out.id, o.token, uint8(szx)); p.fits(len(out.data)) {
			break
		}
	}
	p.b.metrics.CoAPNotifications.Inc()
	if more {
		p.keep(r)
	}
	o.sent(n, confirmable, more)
	if confirmable {
		out.wait = randomly(p.b.opts.AckTimeout)
		p.confirm(out)
		return
	}
	p.write(out.data)
}

// sent notes what is left to be done for a notification.
func (o *observation) sent(n *notification, confirmable, more bool) {
	p := o.lock()
	if o.lastSent == n {
		o.inflight = confirmable
		o.transfer = o.transfer && more
	}
	o.settle(p, n)
}

// response returns what an observer is told, nil if the message has expired.
func (o *observation) response(n *notification) *response {
	m := n.message
	r := &response{code: codes.Content, payload: m.Payload, key: o.key, observation: o}
	if !m.Expiry.IsZero() {
		left := m.Expiry.Sub(o.s.client.Load().Now())
		if left <= 0 {
			return nil
		}
		age := uint32((left + time.Second - 1) / time.Second)
		r.maxAge = &age
	}
	var properties codec.Properties
	contentType := ""
	if m.Properties(&properties) == nil {
		contentType = string(properties.ContentType)
		r.format = formatOfMessage(contentType, properties.PayloadFormatIndicator == 1)
	}
	if len(m.Payload) > 16<<o.szx {
		r.etag = etagOf(m.Payload, contentType)
	}
	if o.wildcard && len(m.TopicName) <= locationMax {
		r.location = locationOf(m.TopicName)
	}
	sequence := o.sequence.Add(1) & 0xffffff
	r.observe = &sequence
	return r
}
