package coapbridge

import (
	"bytes"
	"errors"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq/metrics"
)

const (
	// requestsPerPeer is how many requests of a peer may wait for their turn.
	requestsPerPeer = 64
	// amplification is how many times as much as it sent an address gets of which it isn't
	// known whether it sent anything. [RFC 9175, 2.4]
	amplification = 3
	// slack is what it gets beyond that, once: short requests have short answers.
	slack = 64
	// missesMax is how many acknowledgements of nothing may come from an address before one
	// of something is no proof any more that it gets what is sent there.
	missesMax = 8
	// verifyTimeout is how long an answer waits for that proof; verifyingMax is how many
	// answers may.
	verifyTimeout = time.Second
	verifyingMax  = 1024
)

// peer is a client's address: one of UDP, or of a DTLS session. Its requests are answered
// one after the other, in the order in which they came.
type peer struct {
	// Immutable.
	b     *Bridge
	e     *endpoint
	addr  addrPort
	leave func() // takes back that it counts at its address
	name  string // its ClientID, if it says none
	pipe  *pipe  // DTLS: what comes from the address; nil: there is no DTLS

	secured *secured // DTLS: what the handshake showed; set before the first request

	mu struct {
		sync.Mutex
		over     bool
		heard    time.Time
		messages uint16 // the last Message ID

		// Whether the address gets what is sent there.
		received, sent int64
		verified       bool
		misses         int
		proof          chan struct{} // closed when it is verified; nil: nobody waits

		requests  []*request // that wait
		working   bool       // a goroutine answers them
		exchanges exchanges
		outgoing  map[uint16]*outgoing // confirmable messages, until they are acknowledged
		uploads   map[string]*upload
		bodies    map[string]*body
		held      int64 // bytes of these
		known     *known

		observations map[string]*observation // by token
		ready        []*observation          // that have something to send
		confirmables int                     // notifications among outgoing
		scheduled    bool                    // a sender looks at ready, or will
	}
}

func newPeer(e *endpoint, addr addrPort, leave func()) *peer {
	p := &peer{b: e.b, e: e, addr: addr, leave: leave}
	p.name = "coap-" + randomName()
	if e.security != nil {
		p.pipe = newPipe(e, addr)
		p.mu.verified = true // or there is no session
	}
	p.mu.heard = time.Now()
	p.mu.messages = uint16(rand.Uint32())
	return p
}

// receive is given a datagram, or what was in one of DTLS. Its bytes are valid until it
// returns.
func (p *peer) receive(data []byte) {
	b := p.b
	m, err := decode(data)
	if err != nil {
		b.metrics.CoAPIgnored[metrics.CoAPMalformed].Inc()
		if errors.Is(err, errMalformed) && m.Type == coap.Confirmable {
			p.write(empty(coap.Reset, uint16(m.MessageID)))
		}
		return
	}
	p.mu.Lock()
	p.mu.heard = time.Now()
	p.mu.received += int64(len(data))
	p.mu.Unlock()
	switch {
	case m.Type == coap.Acknowledgement || m.Type == coap.Reset:
		p.acknowledged(uint16(m.MessageID), m.Type == coap.Reset)
	case isRequest(m.Code):
		p.take(data)
	case m.Type == coap.Confirmable: // a ping, or an answer to nothing
		p.write(empty(coap.Reset, uint16(m.MessageID)))
	}
}

// take is given a request.
func (p *peer) take(data []byte) {
	data = bytes.Clone(data)
	m, _ := decode(data) // it was good
	b, id := p.b, uint16(m.MessageID)
	hash := maphash.Bytes(b.seed, data)
	p.mu.Lock()
	if p.mu.over {
		p.mu.Unlock()
		return
	}
	if x := p.mu.exchanges.find(id, hash, time.Now()); x != nil && !x.forgotten {
		b.metrics.CoAPDuplicates.Inc()
		answer := x.answer
		p.mu.Unlock()
		if answer != nil && m.Type == coap.Confirmable {
			p.write(answer) // the first one may be lost
		}
		return
	}
	x := p.mu.exchanges.add(b, id, hash, time.Now())
	var refused error
	switch {
	case x == nil:
		refused = errForgetful
	case len(p.mu.requests) >= requestsPerPeer:
		refused = errPeerBusy
	case b.requests.Add(1) > int64(b.opts.Requests):
		b.requests.Add(-1)
		refused = errBusy
	}
	if refused == nil {
		p.mu.requests = append(p.mu.requests, &request{message: m, exchange: x})
		if !p.mu.working {
			p.mu.working = b.run(p.answerRequests)
		}
	} else if x != nil {
		p.mu.exchanges.remove(b, x)
	}
	p.mu.Unlock()
	b.metrics.CoAPRequests.Inc()
	if refused != nil {
		p.reply(&request{message: m}, b.fail(p, refused))
	}
}

// answerRequests answers requests until none waits.
func (p *peer) answerRequests() {
	for {
		p.mu.Lock()
		if len(p.mu.requests) == 0 {
			p.mu.working, p.mu.requests = false, nil
			p.mu.Unlock()
			return
		}
		q := p.mu.requests[0]
		p.mu.requests[0] = nil
		p.mu.requests = p.mu.requests[1:]
		p.mu.Unlock()
		p.answer(q)
		p.b.requests.Add(-1)
	}
}

func (p *peer) answer(q *request) {
	err := q.parse()
	var answer *response
	if err == nil {
		answer, err = p.b.answer(p, q)
	}
	if err != nil {
		answer = p.b.fail(p, err)
		answer.block1 = q.block1
		if answer.code == codes.BadOption && !q.confirmable() { // which is rejected, not answered [RFC 7252, 5.4.1]
			p.write(empty(coap.Reset, uint16(q.message.MessageID)))
			return
		}
	}
	p.reply(q, answer)
}

// reply sends the answer to a request.
func (p *peer) reply(q *request, r *response) {
	t, id := coap.Acknowledgement, uint16(q.message.MessageID)
	if !q.confirmable() {
		t, id = coap.NonConfirmable, p.nextID()
	}
	var data []byte
	var more bool
	silent := q.silent(r.code)
	if silent {
		if q.confirmable() {
			data = empty(t, id)
		}
	} else {
		data, more = p.fitted(r, t, id, q.message.Token, q.wanted())
	}
	kept := true // what is lost is sent again
	p.mu.Lock()
	if x := q.exchange; x != nil && data == nil && q.message.Code == codes.GET { // it may be asked again, which makes room for more
		p.mu.exchanges.remove(p.b, x)
	} else if x != nil {
		p.mu.exchanges.done(p.b, x, data, q.message.Code == codes.GET)
		kept = !x.forgotten
	}
	p.mu.Unlock()
	if more && r.key != "" {
		p.keep(r)
	}
	ok := data != nil && p.write(data)
	if !more && r.key != "" {
		p.fetched(r.key)
	}
	if r.sent != nil {
		r.sent(ok && !silent && kept)
	}
}

// fitted encodes a response so that it is no larger than may be sent to the peer: its
// address may be forged. It finds out if that matters. nil: nothing fits.
func (p *peer) fitted(r *response, t coap.Type, id uint16, token []byte, szx uint8) (data []byte, more bool) {
	szx = min(szx, szxMax)
	data, more = r.encode(t, id, token, szx)
	if p.fits(len(data)) {
		return data, more
	}
	if isSuccess(r.code) && p.verify() {
		return data, more
	}
	if !isSuccess(r.code) {
		r.payload = nil
		if data, more = r.encode(t, id, token, szx); p.fits(len(data)) {
			return data, more
		}
		return empty(t, id), false
	}
	for szx > 0 {
		szx--
		if data, more = r.encode(t, id, token, szx); p.fits(len(data)) {
			return data, more
		}
	}
	p.b.metrics.CoAPIgnored[metrics.CoAPUnverified].Inc()
	return nil, false
}

func isSuccess(c codes.Code) bool { return c>>5 == 2 }

// fits reports whether so much may be sent to the address.
func (p *peer) fits(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fitsLocked(n)
}

func (p *peer) fitsLocked(n int) bool {
	return p.mu.verified || p.mu.sent+int64(n) <= amplification*p.mu.received+slack
}

// write sends a datagram, unless the address may not have so much.
func (p *peer) write(data []byte) bool {
	p.mu.Lock()
	ok := p.fitsLocked(len(data)) && !p.mu.over
	if ok {
		p.mu.sent += int64(len(data))
	}
	p.mu.Unlock()
	switch {
	case !ok:
		p.b.metrics.CoAPIgnored[metrics.CoAPUnverified].Inc()
	case p.pipe != nil:
		p.pipe.send(data)
	default:
		p.e.write(p.addr, data)
	}
	return ok
}

// nextID returns a Message ID that no message has that waits to be acknowledged.
func (p *peer) nextID() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nextIDLocked()
}

func (p *peer) nextIDLocked() uint16 {
	for {
		p.mu.messages++
		if p.mu.outgoing[p.mu.messages] == nil {
			return p.mu.messages
		}
	}
}

// verify finds out whether the address gets what is sent there, which a client's reset of
// an empty message shows. [RFC 7252, 4.3] It takes no longer than verifyTimeout.
func (p *peer) verify() bool {
	b := p.b
	if b.verifying.Add(1) > verifyingMax {
		b.verifying.Add(-1)
		return false
	}
	defer b.verifying.Add(-1)
	proof := p.ping(verifyTimeout/8, 2, false)
	if proof == nil {
		return true
	}
	t := time.NewTimer(verifyTimeout)
	defer t.Stop()
	select {
	case <-proof:
		return true
	case <-t.C:
	case <-b.stopping:
	}
	return false
}

// ping asks the client whether it is there, and returns what is closed when its address
// is verified, nil if it is.
func (p *peer) ping(wait time.Duration, retransmissions int, alive bool) <-chan struct{} {
	p.mu.Lock()
	if p.mu.verified && !alive {
		p.mu.Unlock()
		return nil
	}
	asked := p.mu.proof != nil
	if !asked {
		p.mu.proof = make(chan struct{})
	}
	proof := p.mu.proof
	id := p.nextIDLocked()
	p.mu.Unlock()
	if !asked {
		p.confirm(&outgoing{id: id, data: empty(coap.Confirmable, id), alive: alive, wait: wait, left: retransmissions})
	}
	return proof
}

// randomly is a timeout between once and one and a half times d. [RFC 7252, 4.2]
func randomly(d time.Duration) time.Duration { return d + rand.N(d/2+1) }

// outgoing is a confirmable message that waits for its acknowledgement.
type outgoing struct {
	id           uint16
	data         []byte
	observation  *observation // that it is a notification of; nil: it is a ping
	notification *notification
	alive        bool          // whether the client is there is what is asked
	wait         time.Duration // until it is sent again
	left         int           // how often it is
	timer        *time.Timer
}

// confirm sends a message until it is acknowledged.
func (p *peer) confirm(o *outgoing) {
	p.mu.Lock()
	if p.mu.over {
		p.mu.Unlock()
		return
	}
	if p.mu.outgoing == nil {
		p.mu.outgoing = make(map[uint16]*outgoing)
	}
	p.mu.outgoing[o.id] = o
	if o.observation != nil {
		p.mu.confirmables++
	}
	o.timer = time.AfterFunc(o.wait, func() { p.again(o) })
	p.mu.Unlock()
	p.write(o.data)
}

// again sends a message that wasn't acknowledged, or gives it up.
func (p *peer) again(o *outgoing) {
	p.mu.Lock()
	if p.mu.outgoing[o.id] != o {
		p.mu.Unlock()
		return
	}
	if o.left == 0 {
		p.settledLocked(o)
		if o.observation == nil { // a client need not say who it is
			p.mu.proof = nil
		}
		lost := o.observation != nil || o.alive
		p.mu.Unlock()
		if lost {
			p.end(metrics.CoAPUnanswered)
		}
		return
	}
	o.left--
	o.wait *= 2
	o.timer.Reset(o.wait)
	p.mu.Unlock()
	p.b.metrics.CoAPRetransmissions.Inc()
	p.write(o.data)
}

// settledLocked forgets a message. REQUIRES: p.mu
func (p *peer) settledLocked(o *outgoing) {
	o.timer.Stop()
	delete(p.mu.outgoing, o.id)
	if o.observation != nil {
		p.mu.confirmables--
	}
}

// acknowledged is given an acknowledgement, or a reset.
func (p *peer) acknowledged(id uint16, reset bool) {
	p.mu.Lock()
	o := p.mu.outgoing[id]
	if o == nil {
		if reset {
			for _, ob := range p.mu.observations {
				if ob.confirmable || ob.lastID != id {
					continue
				}
				p.mu.Unlock()
				ob.s.end(ob, metrics.CoAPReset)
				return
			}
		}
		p.mu.misses++
		p.mu.Unlock()
		return
	}
	p.settledLocked(o)
	var waiting []*observation
	if !p.mu.verified && p.mu.misses <= missesMax {
		p.mu.verified = true
		for _, ob := range p.mu.observations {
			waiting = append(waiting, ob)
		}
	}
	if p.mu.verified && p.mu.proof != nil {
		close(p.mu.proof)
		p.mu.proof = nil
	}
	p.mu.Unlock()
	switch {
	case o.observation == nil:
	case reset:
		o.observation.s.end(o.observation, metrics.CoAPReset)
	default:
		o.observation.acknowledged(o.notification)
	}
	for _, ob := range waiting {
		p.schedule(ob)
	}
	p.schedule(nil)
}

// mayGo reports whether the peer can make room for another.
func (p *peer) mayGo(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	silent := now.Sub(p.mu.heard)
	observes := len(p.mu.observations) > 0
	if p.mu.working || observes && p.mu.verified {
		return false
	}
	return silent > evictable || silent > evictableRead && !observes && p.mu.exchanges.harmless()
}

// sweep is called now and then.
func (p *peer) sweep(now time.Time) {
	p.mu.Lock()
	p.mu.exchanges.expire(p.b, now)
	var over []*body
	for key, u := range p.mu.uploads {
		if now.Sub(u.at) > transferTimeout {
			p.dropUploadLocked(key)
		}
	}
	for key, held := range p.mu.bodies {
		if now.Sub(held.at) > transferTimeout {
			p.dropBodyLocked(key)
			over = append(over, held)
		}
	}
	silent, patience := now.Sub(p.mu.heard), p.b.opts.Inactivity
	observes := len(p.mu.observations) > 0
	if observes && !p.mu.verified { // its address may be forged
		patience = min(patience, evictable)
	}
	inactive := silent > patience && !p.mu.working
	asking := false
	for _, o := range p.mu.outgoing {
		asking = asking || o.observation == nil
	}
	p.mu.Unlock()
	for _, held := range over {
		held.done()
	}
	switch {
	case !inactive || asking:
	case observes:
		p.ping(randomly(p.b.opts.AckTimeout), p.b.opts.MaxRetransmit, true)
	default:
		p.end(metrics.CoAPDisconnected)
	}
}

// end forgets the peer, and ends what it observes.
func (p *peer) end(why metrics.CoAPEnd) {
	p.e.mu.Lock()
	for _, peers := range []map[addrPort]*peer{p.e.mu.peers, p.e.mu.returning} {
		if peers[p.addr] == p {
			delete(peers, p.addr)
		}
	}
	p.e.mu.Unlock()
	p.mu.Lock()
	if p.mu.over {
		p.mu.Unlock()
		return
	}
	p.mu.over = true
	for _, o := range p.mu.outgoing {
		o.timer.Stop()
	}
	p.mu.outgoing = nil
	observations := p.mu.observations
	p.mu.observations, p.mu.ready = nil, nil
	for key := range p.mu.uploads {
		p.dropUploadLocked(key)
	}
	for key := range p.mu.bodies {
		p.dropBodyLocked(key)
	}
	p.mu.exchanges.clear(p.b)
	known := p.mu.known
	p.mu.known = nil
	p.mu.Unlock()
	for _, o := range observations {
		o.s.end(o, why)
	}
	known.close()
	if p.pipe != nil {
		p.pipe.close()
	}
	if p.leave != nil {
		p.leave()
	}
	p.b.peers.Add(-1)
	p.b.metrics.CoAPPeers.Dec()
}
