package coapbridge

import (
	"sync"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq/metrics"
)

const (
	// transferTimeout is how long the next block of a body may take.
	transferTimeout = 30 * time.Second
	// uploadsPerPeer is how many bodies of a peer may be on their way.
	uploadsPerPeer = 4
	// bodiesPerPeer is how many bodies that go to a peer in blocks are kept for it.
	bodiesPerPeer = 16
	// bodyShares is into how many parts the budget is divided, of which one peer may have
	// one.
	bodyShares = 4
)

// budget bounds the bytes of bodies.
type budget struct {
	limit int64

	mu   sync.Mutex
	used int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.limit {
		return false
	}
	b.used += n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}

// holdLocked takes n bytes of the budget for a body of the peer. REQUIRES: p.mu
func (p *peer) holdLocked(n int64) bool {
	share := max(int64(p.b.opts.BodiesBytes)/bodyShares, int64(p.b.opts.BodyBytes))
	if p.mu.held+n > share || !p.b.bodies.take(n) {
		return false
	}
	p.mu.held += n
	return true
}

func (p *peer) releaseLocked(n int64) {
	p.mu.held -= n
	p.b.bodies.give(n)
}

// upload is a body that comes in blocks. It is the client's of an address that has the
// same method, path, query and Request-Tag; the token may differ. [RFC 7959, 2.5; RFC
// 9175, 3.3]
type upload struct {
	body []byte
	held int64
	at   time.Time
}

func (p *peer) dropUploadLocked(key string) {
	p.releaseLocked(p.mu.uploads[key].held)
	delete(p.mu.uploads, key)
}

// body returns the body of a request, or nil and what a block of it is answered.
func (p *peer) body(q *request) ([]byte, *response, error) {
	b := q.block1
	switch limit := p.b.opts.BodyBytes; {
	case b == nil && len(q.message.Payload) > limit, q.size1 != nil && int64(*q.size1) > int64(limit), b != nil && b.offset()+len(q.message.Payload) > limit:
		return nil, nil, p.tooLarge()
	case b == nil || b.number == 0 && !b.more:
		return q.message.Payload, nil, nil
	case b.more && len(q.message.Payload) != b.size(), len(q.message.Payload) > b.size():
		return nil, nil, badRequest("a block of %d bytes has %d", b.size(), len(q.message.Payload))
	}
	key := q.message.Code.String() + q.key() + "#" + q.tags
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.mu.uploads[key]
	if b.number == 0 && u != nil { // it begins again
		p.dropUploadLocked(key)
		u = nil
	}
	switch {
	case p.mu.over:
		return nil, nil, errStopping
	case u == nil && b.number > 0, u != nil && len(u.body) != b.offset():
		return nil, nil, faulty(codes.RequestEntityIncomplete, metrics.CoAPIncomplete, "block %d comes without those before it", b.number)
	case u == nil && len(p.mu.uploads) >= uploadsPerPeer:
		return nil, nil, errPeerBusy
	case u == nil:
		u = &upload{}
		if p.mu.uploads == nil {
			p.mu.uploads = make(map[string]*upload)
		}
		p.mu.uploads[key] = u
	}
	u.at = time.Now()
	if need := len(u.body) + len(q.message.Payload); need > cap(u.body) {
		size := int64(max(need, min(2*need, p.b.opts.BodyBytes)))
		if !p.holdLocked(size - u.held) {
			p.dropUploadLocked(key)
			return nil, nil, errBusy
		}
		u.held = size
		u.body = append(make([]byte, 0, size), u.body...)
	}
	u.body = append(u.body, q.message.Payload...)
	if b.more {
		return nil, &response{code: codes.Continue, block1: &block{b.number, true, b.szx}}, nil
	}
	p.dropUploadLocked(key)
	return u.body, nil, nil
}

func (p *peer) tooLarge() error {
	limit := p.b.opts.BodyBytes
	return &fault{code: codes.RequestEntityTooLarge, reason: metrics.CoAPTooLarge, detail: "the body is too large", size1: limit}
}

// body is one that goes to a client in blocks. It stays what it was when the first of
// them was sent.
type body struct {
	response
	held int64
	at   time.Time
}

// done is called when nobody asks for the rest any more.
func (h *body) done() {
	if h.observation != nil {
		h.observation.fetched()
	}
}

// keep keeps what a client will ask for the rest of.
func (p *peer) keep(r *response) {
	p.mu.Lock()
	old := p.mu.bodies[r.key]
	if old != nil && &old.payload[0] == &r.payload[0] {
		old.at = time.Now()
		p.mu.Unlock()
		return
	}
	if old != nil {
		p.dropBodyLocked(r.key)
	}
	size := int64(len(r.payload))
	kept := !p.mu.over && len(p.mu.bodies) < bodiesPerPeer && p.holdLocked(size)
	h := &body{response: *r, held: size, at: time.Now()}
	h.observe, h.block1, h.block2, h.sent = nil, nil, nil, nil
	if kept {
		if p.mu.bodies == nil {
			p.mu.bodies = make(map[string]*body)
		}
		p.mu.bodies[r.key] = h
	}
	p.mu.Unlock()
	if old != nil {
		old.done()
	}
	if !kept { // its blocks are those of what is retained, if it is
		h.done()
	}
}

func (p *peer) dropBodyLocked(key string) {
	p.releaseLocked(p.mu.bodies[key].held)
	delete(p.mu.bodies, key)
}

// fetched forgets a body, whose last block was sent.
func (p *peer) fetched(key string) {
	p.mu.Lock()
	h := p.mu.bodies[key]
	if h != nil {
		p.dropBodyLocked(key)
	}
	p.mu.Unlock()
	if h != nil {
		h.done()
	}
}

// rest returns a block of what the client has the beginning of, or nil if that isn't
// known any more.
func (p *peer) rest(q *request) *response {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.mu.bodies[q.key()]
	if h == nil {
		return nil
	}
	h.at = time.Now()
	r := h.response
	return &r
}

// part has a response be the block that the client asks for.
func part(q *request, r *response) (*response, error) {
	r.key = q.key()
	if q.block2 == nil {
		return r, nil
	}
	b := *q.block2
	if b.number > 0 && b.offset() >= len(r.payload) {
		return nil, badRequest("there is no block %d", b.number)
	}
	if b.number > 0 || len(r.payload) > b.size() {
		r.block2 = &b
	}
	return r, nil
}
