package coapbridge

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

const (
	// confirmEvery is how often a notification is confirmable, though its message needn't be:
	// to find out whether the client is there. [RFC 7641, 4.5]
	confirmEvery = time.Minute
	// locationMax bounds the topic in a notification of a wildcard.
	locationMax = 1024
)

// notification is a message for observations.
type notification struct {
	message *loopmq.MessageView
	id      loopmq.DeliveryID
	left    atomic.Int32 // observations that it waits for
}

// overhead is about what a notification costs beside the bytes of its message.
const overhead = 200

func (n *notification) size() int {
	return len(n.message.TopicName) + len(n.message.Payload) + overhead
}

// finish acknowledges the message when all observations have it.
func (n *notification) finish(s *session) {
	if n.left.Add(-1) == 0 {
		s.acknowledge(n.id)
	}
}

// observation is a client's wish to be told of a Topic Filter. [RFC 7641]
type observation struct {
	s        *session
	token    []byte
	key      string // what the rest of a large message is asked for by
	filter   string
	wildcard bool
	accept   *uint32
	szx      uint8

	peer     atomic.Pointer[peer] // it changes under the locks of both
	sequence atomic.Uint32
	dropped  atomic.Uint64

	// Under the lock of its peer.
	queue       []*notification
	bytes       int
	refused     bool // a message found no room
	held        bool // the first answer was not sent
	over        bool
	isReady     bool          // it is in peer.mu.ready
	lastSent    *notification // the head of queue, if it was sent and isn't done with; else nil
	inflight    bool          // it waits for its acknowledgement
	transfer    bool          // the client is asking for the rest of it
	confirmable bool          // what was sent last
	lastID      uint16
	confirmed   time.Time
	arrived     chan struct{} // closed when queue gets its first message; nil: nobody waits for it
}

// lock locks the observation's peer, and returns it.
func (o *observation) lock() *peer {
	for {
		p := o.peer.Load()
		p.mu.Lock()
		if o.peer.Load() == p {
			return p
		}
		p.mu.Unlock()
	}
}

// hasRoom reports whether a message has room. If not, the session hears when it has.
func (o *observation) hasRoom(n *notification) bool {
	p := o.lock()
	defer p.mu.Unlock()
	ok := o.over || len(o.queue) == 0 || len(o.queue) < p.b.opts.QueueMessages && o.bytes+n.size() <= p.b.opts.QueueBytes
	o.refused = o.refused || !ok
	return ok
}

// push adds a message to the queue. One at QoS 0 is dropped if there is no room.
func (o *observation) push(n *notification) {
	p := o.lock()
	options := &p.b.opts
	full := len(o.queue) >= options.QueueMessages || len(o.queue) > 0 && o.bytes+n.size() > options.QueueBytes
	switch {
	case o.over:
		p.mu.Unlock()
		n.finish(o.s)
		return
	case n.id.IsZero() && full:
		p.mu.Unlock()
		o.dropped.Add(1)
		p.b.metrics.CoAPDropped.Inc()
		return
	}
	o.queue = append(o.queue, n)
	o.bytes += n.size()
	if o.arrived != nil {
		close(o.arrived)
		o.arrived = nil
	}
	p.mu.Unlock()
	p.schedule(o)
}

// popLocked takes the head of the queue. REQUIRES: the peer's lock
func (o *observation) popLocked() (n *notification, room bool) {
	n = o.queue[0]
	o.queue[0] = nil
	if o.queue = o.queue[1:]; len(o.queue) == 0 {
		o.queue = nil
	}
	o.bytes -= n.size()
	room, o.refused = o.refused, false
	return n, room
}

// acknowledged is called when the client has acknowledged a notification.
func (o *observation) acknowledged(n *notification) {
	p := o.lock()
	o.confirmed = time.Now()
	o.inflight = false
	o.settle(p, n)
}

// fetched is called when the client has got the rest of a message, or doesn't ask for it.
func (o *observation) fetched() {
	p := o.lock()
	o.transfer = false
	o.settle(p, o.lastSent)
}

// settle goes on to the next message, when n is done with. It unlocks the peer.
func (o *observation) settle(p *peer, n *notification) {
	if o.over || o.inflight || o.transfer || n == nil || o.lastSent != n {
		p.mu.Unlock()
		p.schedule(o)
		return
	}
	_, room := o.popLocked()
	o.lastSent = nil
	p.mu.Unlock()
	n.finish(o.s)
	if room {
		o.s.ready()
	}
	p.schedule(o)
}

// leave takes the observation from its peer, and returns what waited.
func (o *observation) leave() []*notification {
	p := o.lock()
	defer p.mu.Unlock()
	p.removeLocked(o)
	o.over = true
	left := o.queue
	o.queue, o.bytes = nil, 0
	return left
}

// removeLocked takes an observation from the peer. REQUIRES: p.mu
func (p *peer) removeLocked(o *observation) {
	if p.mu.observations[string(o.token)] == o {
		delete(p.mu.observations, string(o.token))
	}
	for _, out := range p.mu.outgoing {
		if out.observation == o {
			p.settledLocked(out)
		}
	}
	o.inflight, o.transfer, o.lastSent = false, false, nil
}

// farewell tells the client that it isn't told any more.
func (o *observation) farewell(f *fault) {
	p := o.peer.Load()
	data, _ := p.fitted(f.response(), coap.NonConfirmable, p.nextID(), o.token, szxMax)
	p.write(data)
}

// farewell tells all observers so.
func (p *peer) farewell() {
	p.mu.Lock()
	all := make([]*observation, 0, len(p.mu.observations))
	for _, o := range p.mu.observations {
		all = append(all, o)
	}
	p.mu.Unlock()
	for _, o := range all {
		o.farewell(errStopping)
	}
}

// observation returns the one with a token, or nil.
func (p *peer) observation(token []byte) *observation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.observations[string(token)]
}

// observe is GET /ps/{topic} with Observe 0.
func (b *Bridge) observe(c *call, filter string) (*response, error) {
	p, key := c.p, c.key()
	if !codec.ValidTopicFilter([]byte(filter)) {
		return nil, badRequest("the path is not a valid Topic Filter")
	}
	qos, err := c.qos()
	if err != nil {
		return nil, err
	}
	o := p.observation(c.message.Token)
	if o != nil && (o.key != key || c.connection != nil && o.s != c.connection.session) { // the token has another meaning now
		o.s.end(o, metrics.CoAPCancelled)
		o = nil
	}
	again := o != nil
	if !again {
		if o, err = b.begin(c, filter, key, qos); err != nil {
			return nil, err
		}
	}
	r, err := o.first(c, again)
	if err != nil && !again {
		o.s.end(o, metrics.CoAPCancelled)
	}
	if err != nil {
		return nil, err
	}
	p.ping(verifyTimeout/4, 2, false) // notifications may be larger than the request
	return r, nil
}

// begin subscribes to the filter of an observation.
func (b *Bridge) begin(c *call, filter, key string, qos byte) (*observation, error) {
	p := c.p
	p.mu.Lock()
	n := len(p.mu.observations)
	p.mu.Unlock()
	if n >= b.opts.ObservationsPerPeer {
		return nil, &fault{code: codes.TooManyRequests, reason: metrics.CoAPRate, detail: "this client observes too much", retryAfter: time.Minute}
	}
	if b.observations.Add(1) > int64(b.opts.Observations) {
		b.observations.Add(-1)
		return nil, errBusy
	}
	o := &observation{
		token: append([]byte{}, c.message.Token...), key: key, filter: filter, wildcard: strings.ContainsAny(filter, "+#"), accept: c.accept,
		szx: min(c.wanted(), szxMax), held: true,
	}
	o.peer.Store(p)
	o.confirmed = time.Now()
	var err error
	if c.connection != nil {
		o.s = c.connection.session
	} else if o.s, err = b.newSession(c.ctx, c.caller, "", 0, nil); err != nil {
		b.observations.Add(-1)
		return nil, err
	}
	b.metrics.CoAPObservations.Inc()
	o.s.add(o)
	p.mu.Lock()
	over := p.mu.over
	if !over {
		if p.mu.observations == nil {
			p.mu.observations = make(map[string]*observation)
		}
		p.mu.observations[string(o.token)] = o
	}
	p.mu.Unlock()
	if over {
		o.s.end(o, metrics.CoAPDisconnected)
		return nil, errStopping
	}
	options := codec.SubscriptionOptions{QoS: qos, RetainHandling: 2}
	if o.wildcard {
		options.RetainHandling = 0
	}
	reasons, err := o.s.subscribe(c.ctx, o, options)
	if errors.Is(err, loopmq.ErrTopicFilter) {
		err = badRequest("%s", detailOf(err))
	}
	if err == nil && reasons[0].IsError() {
		err = codec.NewError(reasons[0], "the subscription was refused: "+reasons[0].String())
	}
	if err != nil {
		o.s.end(o, metrics.CoAPCancelled)
		return nil, err
	}
	if o.s.waiting.Swap(false) {
		o.s.ready()
	}
	return o, nil
}

// first returns the answer to who observes: what is retained. Of a topic that is looked
// up, unless the session had a message already; of a wildcard it is the first message
// that waits, which is as good as notified of then.
func (o *observation) first(c *call, again bool) (r *response, err error) {
	if !o.wildcard {
		p := o.lock()
		none := len(o.queue) == 0
		p.mu.Unlock()
		if r, err = o.current(c, none); err != nil {
			return nil, err
		}
		o.observed(r)
		r.sent = func(bool) { o.release() }
		return r, nil
	}
	if !again {
		o.await(c)
	}
	for {
		n := o.takeFirst(c.confirmable())
		if n == nil {
			r = &response{code: codes.Content}
			o.observed(r)
			r.sent = func(bool) { o.release() }
			return r, nil
		}
		r = o.response(n)
		switch {
		case r == nil: // it has expired
			o.answered(n, true)
		case !acceptable(o.accept, r.format):
			return nil, errNotAcceptable
		default:
			r.sent = func(sent bool) { o.answered(n, sent) }
			return part(c.request, r)
		}
	}
}

// current returns what is retained, if that is asked for and there is any.
func (o *observation) current(c *call, asked bool) (*response, error) {
	if asked {
		m, err := c.caller.Retained(c.ctx, o.filter)
		switch {
		case err == nil:
			return c.content(m)
		case !errors.Is(err, loopmq.ErrNoRetained) && c.caller.Err() != nil:
			return nil, err
		}
	}
	return &response{code: codes.Content}, nil
}

// observed makes r an answer that says that the observation goes on.
func (o *observation) observed(r *response) {
	sequence := o.sequence.Add(1) & 0xffffff
	r.observe, r.observation = &sequence, o
}

// firstTimeout is how long the first answer waits for retained messages that there may be.
const firstTimeout = time.Second

// await waits until there is a message, if there may be retained ones.
func (o *observation) await(c *call) {
	p := o.lock()
	var arrived chan struct{}
	if len(o.queue) == 0 && c.caller.MayBeRetained(o.filter) {
		arrived = make(chan struct{})
		o.arrived = arrived
	}
	p.mu.Unlock()
	if arrived == nil {
		return
	}
	t := time.NewTimer(firstTimeout)
	defer t.Stop()
	select {
	case <-arrived:
	case <-t.C: // it has expired, or may not be seen
	case <-c.ctx.Done():
	case <-p.b.stopping:
	}
}

// takeFirst returns the head of the queue if it can be the first answer: one that is
// lost, as that to a non-confirmable request may be, is at QoS 0.
func (o *observation) takeFirst(confirmable bool) *notification {
	p := o.lock()
	defer p.mu.Unlock()
	if o.over || o.lastSent != nil || len(o.queue) == 0 || !confirmable && !o.queue[0].id.IsZero() {
		return nil
	}
	n := o.queue[0]
	o.lastSent, o.confirmable, o.inflight, o.transfer = n, true, false, true
	return n
}

// answered is called when an answer had a message, or wasn't sent: it is a notification
// then.
func (o *observation) answered(n *notification, sent bool) {
	p := o.lock()
	o.held = false
	if o.lastSent != n {
		p.mu.Unlock()
		p.schedule(o)
		return
	}
	body := p.mu.bodies[o.key]
	o.transfer = sent && body != nil && body.observation == o
	if !sent {
		o.lastSent = nil
	}
	o.settle(p, n)
}

// release has notifications go out, as the first answer was sent.
func (o *observation) release() {
	p := o.lock()
	o.held = false
	p.mu.Unlock()
	p.schedule(o)
}

// locationOf returns the path that a topic has, as a notification of a wildcard says which
// one it is of. nil: there is none.
func locationOf(topic []byte) []string {
	levels := strings.Split("ps/"+string(topic), "/")
	for _, level := range levels {
		if len(level) > 255 {
			return nil
		}
	}
	return levels
}

// move has the client be told at another address.
func (o *observation) move(to *peer) {
	if other := to.observation(o.token); other != nil && other != o {
		other.s.end(other, metrics.CoAPCancelled)
	}
	from := o.lock()
	if from == to || o.over {
		from.mu.Unlock()
		return
	}
	from.removeLocked(o)
	o.isReady = false
	o.peer.Store(to)
	from.mu.Unlock()
	to.mu.Lock()
	over := to.mu.over
	if !over && o.peer.Load() == to {
		if to.mu.observations == nil {
			to.mu.observations = make(map[string]*observation)
		}
		to.mu.observations[string(o.token)] = o
	}
	to.mu.Unlock()
	if over {
		o.s.end(o, metrics.CoAPDisconnected)
		return
	}
	to.schedule(o)
}
