package loopmq

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"loopmq/codec"
	"loopmq/eventloop"
	"loopmq/metrics"
	"loopmq/rate"
)

// Traffic bounds what clients send. The zero value is no limit.
type Traffic struct {
	// MessageRate bounds PUBLISH packets, ByteRate the bytes of all packets, in a
	// second and at once.
	MessageRate, ByteRate rate.Limit
	// Policy says what happens beyond it. Default: SlowDown.
	Policy TrafficPolicy
}

// TrafficPolicy says what happens to a client that sends more than it may, or at
// the moment when an address, a listener or the node gets more than it may.
type TrafficPolicy uint8

// The policies.
const (
	// SlowDown: what was sent counts, and nothing more is read from the client until the
	// rate allows for it. TCP slows the client down; its Keep Alive doesn't run meanwhile.
	SlowDown TrafficPolicy = iota
	// DisconnectSender: the client is disconnected (5.0: Message rate too high, 0x96).
	DisconnectSender
)

// Quota bounds the connections of one address, or of a listener, together. The zero
// value is no limit.
type Quota struct {
	// Connections at one time.
	Connections int
	// ConnectionRate bounds new ones.
	ConnectionRate rate.Limit
	// Traffic is what all of them may send.
	Traffic Traffic
}

func (t *Traffic) isLimit() bool { return t.MessageRate.IsLimit() || t.ByteRate.IsLimit() }

func (q *Quota) isLimit() bool {
	return q.Connections > 0 || q.ConnectionRate.IsLimit() || q.Traffic.isLimit()
}

// received is how much was sent to hold against a Traffic, by any loop.
type received struct {
	messages, bytes rate.Bucket
}

// take returns how long nothing more should be read after n messages, or so many bytes.
func (r *received) take(t *Traffic, messages, bytes int, now int64) (wait time.Duration) {
	if messages > 0 {
		wait = r.messages.Take(t.MessageRate, messages, now)
	}
	if bytes > 0 {
		wait = max(wait, r.bytes.Take(t.ByteRate, bytes, now))
	}
	return wait
}

// listenerQuota is a Listener's Quota, which can be changed, and what came by it.
type listenerQuota struct {
	quota    atomic.Pointer[Quota]
	received received
}

func newListenerQuota(q Quota) *listenerQuota {
	l := &listenerQuota{}
	l.quota.Store(&q)
	return l
}

// admission is the part of a Quota that the event loops look after.
func (q *Quota) admission() eventloop.Admission {
	return eventloop.Admission{Connections: q.Connections, Rate: q.ConnectionRate}
}

// meter holds what one client sends to the limits on it, its address, its listener
// and the node. Without any such limit a client has none. It belongs to the client's
// loop.
type meter struct {
	client   *Client
	own      received
	address  *address // nil: addresses have no limits
	listener *listenerQuota
	timer    eventloop.Timer
	refused  *codec.Error // what its CONNECT will be answered
}

// refusedTimeout is how long a connection that will be refused may take to send its
// CONNECT, and so hear why.
const refusedTimeout = 2 * time.Second

// measure gives c a meter if limits are set that need one.
func (c *Client) measure() {
	if c.meter != nil || c.local != nil {
		return
	}
	b := c.loop.b
	limits := b.limits.Load()
	q := listenerOf(c.conn)
	if !limits.Client.isLimit() && !limits.Address.isLimit() && !limits.Node.isLimit() && (q == nil || !q.quota.Load().Traffic.isLimit()) {
		return
	}
	c.meter = &meter{client: c, listener: q}
	c.meter.timer.Init(c.meter)
}

// listenerOf returns the limits of the listener that accepted a connection, or nil.
func listenerOf(conn *eventloop.Conn) *listenerQuota {
	if l := conn.Listener(); l != nil {
		return l.Context.(*listener).quota
	}
	return nil
}

// arrived counts the connection at its address, and reports whether it may stay: one
// beyond the limits may, for as long as it takes to be told, unless too many do.
func (m *meter) arrived() bool {
	c, b := m.client, m.client.loop.b
	q := &b.limits.Load().Address
	if !q.isLimit() {
		return true
	}
	a, reason, ok := b.addresses.enter(c.conn.RemoteAddr(), q, c.loop.el.Nanotime())
	if m.address = a; ok {
		return true
	}
	m.refused = b.refuseAddress(reason)
	return a != nil
}

// EnterAddress counts a connection that isn't the Broker's, such as one of HTTP, against
// Limits.Address. The error is a *codec.Error, and counted, if that is beyond the limit
// (Quota exceeded, 0x97, or Connection rate exceeded, 0x9F). leave is to be called once
// when the connection is gone; it is nil if that has to be at once, since too many
// connections of the address wait to be told already. EnterAddress is safe for concurrent
// use.
func (b *Broker) EnterAddress(addr net.Addr) (leave func(), err error) {
	q := &b.limits.Load().Address
	if !q.isLimit() {
		return func() {}, nil
	}
	a, reason, ok := b.addresses.enter(addr, q, b.engine.Nanotime())
	if !ok {
		err = b.refuseAddress(reason)
	}
	if a == nil {
		if ok { // such as a unix socket's
			return func() {}, nil
		}
		return nil, err
	}
	return func() { b.addresses.leave(a, err != nil, b.engine.Nanotime()) }, err
}

// refuseAddress counts a connection beyond the limit of its address, and returns what it is
// told.
func (b *Broker) refuseAddress(reason metrics.RefuseReason) *codec.Error {
	b.refusedConnects[reason].Add(1)
	if reason == metrics.RefuseAddressRate {
		return errAddressRate
	}
	return errAddressLimit
}

// leave is called when the connection is gone.
func (m *meter) leave() {
	m.timer.Stop()
	if m.address != nil {
		m.client.loop.b.addresses.leave(m.address, m.refused != nil, m.client.loop.el.Nanotime())
	}
}

// take counts what the client has sent, and slows it down, or disconnects it, if that
// was too much.
func (m *meter) take(messages, bytes int) {
	c, b := m.client, m.client.loop.b
	if c.state == stateClosed {
		return
	}
	now, limits := c.loop.el.Nanotime(), b.limits.Load()
	wait := m.held(metrics.ScopeClient, &limits.Client, m.own.take(&limits.Client, messages, bytes, now))
	if m.address != nil {
		wait = max(wait, m.held(metrics.ScopeAddress, &limits.Address.Traffic, m.address.received.take(&limits.Address.Traffic, messages, bytes, now)))
	}
	if m.listener != nil {
		t := &m.listener.quota.Load().Traffic
		wait = max(wait, m.held(metrics.ScopeListener, t, m.listener.received.take(t, messages, bytes, now)))
	}
	wait = max(wait, m.held(metrics.ScopeNode, &limits.Node, b.received.take(&limits.Node, messages, bytes, now)))
	if wait == 0 || c.state == stateClosed {
		return
	}
	c.wait(waitRate)
	c.conn.Pause() // what it sends meanwhile is to wait there, not here
	c.loop.el.Schedule(&m.timer, wait)
}

// held counts that a limit was exceeded, disconnects the client if that is the policy,
// and returns how long it is to wait.
func (m *meter) held(scope metrics.Scope, t *Traffic, wait time.Duration) time.Duration {
	if wait == 0 {
		return 0
	}
	m.client.loop.b.metrics.TrafficExceeded[scope].Inc()
	if t.Policy == DisconnectSender {
		m.client.disconnect(codec.MessageRateTooHigh, errRateTooHigh)
		return 0
	}
	return wait
}

// OnTimer goes on reading.
func (m *meter) OnTimer(*eventloop.Timer) { m.client.resume(waitRate) }

const (
	// addressesIdle bounds the addresses that are remembered for what came from them,
	// though nobody is connected from there.
	addressesIdle = 65_536
	// addressRefused is how many connections of one address may wait for the answer that
	// they are refused.
	addressRefused = 16
)

// addresses are those with connections, and those that have used up some of a limit.
type addresses struct {
	mu   sync.Mutex
	all  map[netip.Addr]*address
	idle int // how many have no connection
}

// address is one IPv4 address, or one IPv6 network of 64 bits, which is what one
// customer has.
type address struct {
	prefix    netip.Addr
	connected rate.Bucket
	received  received

	// guarded by addresses.mu
	connections, refused int
}

// prefixOf returns what addr counts as; an invalid one has no limits.
func prefixOf(addr net.Addr) netip.Addr {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if ip.Is6() {
		p, _ := ip.Prefix(64) // an IPv6 address has that many bits
		ip = p.Addr()
	}
	return ip
}

// enter counts a connection. One that is refused has a non-nil address if it may wait
// for its answer; leave is to be called for each that isn't nil.
func (s *addresses) enter(addr net.Addr, q *Quota, now int64) (a *address, reason metrics.RefuseReason, ok bool) {
	prefix := prefixOf(addr)
	if !prefix.IsValid() {
		return nil, 0, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[netip.Addr]*address)
	}
	if a = s.all[prefix]; a == nil {
		a = &address{prefix: prefix}
		s.all[prefix] = a
		s.idle++
	}
	was := a.connections + a.refused
	switch {
	case q.Connections > 0 && a.connections >= q.Connections:
		reason = metrics.RefuseAddress
	case a.connected.Wait(q.ConnectionRate, now) > 0:
		reason = metrics.RefuseAddressRate
	default:
		a.connected.Take(q.ConnectionRate, 1, now)
		a.connections++
		ok = true
	}
	if !ok && a.refused >= addressRefused {
		return nil, reason, false
	}
	if !ok {
		a.refused++
	}
	if was == 0 {
		s.idle--
	}
	return a, reason, ok
}

// received is what came from an address, by connections and without.
func (s *addresses) received(prefix netip.Addr, now int64) *received {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.all[prefix]
	if a == nil {
		if s.all == nil {
			s.all = make(map[netip.Addr]*address)
		}
		if s.idle++; s.idle > addressesIdle {
			s.forget(now)
		}
		a = &address{prefix: prefix}
		s.all[prefix] = a
	}
	return &a.received
}

// leave takes a connection back.
func (s *addresses) leave(a *address, refused bool, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused {
		a.refused--
	} else {
		a.connections--
	}
	if a.connections+a.refused > 0 {
		return
	}
	if a.rested(now) {
		delete(s.all, a.prefix)
		return
	}
	if s.idle++; s.idle > addressesIdle {
		s.forget(now)
	}
}

// rested reports whether nothing came from the address for so long that it is as good
// as a new one.
func (a *address) rested(now int64) bool {
	return a.connected.Full(now) && a.received.messages.Full(now) && a.received.bytes.Full(now)
}

// forget removes a quarter of the idle addresses at least: those that have rested, and
// if that doesn't do, others.
//
// REQUIRES: s.mu
func (s *addresses) forget(now int64) {
	for _, rested := range []bool{true, false} {
		for prefix, a := range s.all {
			if s.idle <= addressesIdle*3/4 && !rested {
				return
			}
			if a.connections+a.refused == 0 && (!rested || a.rested(now)) {
				delete(s.all, prefix)
				s.idle--
			}
		}
	}
}

// SetLimits changes limits while the broker runs: Connections, ConnectionRate,
// Connects, Client, Address, Node, RetainedMessages, RetainedBytes and
// TotalSubscriptions. The other fields have to be what they were. What is beyond a new
// limit already stays. It is safe for concurrent use.
func (b *Broker) SetLimits(l Limits) error {
	if err := l.setDefaults(len(b.loops)); err != nil {
		return err
	}
	if l.fixed() != b.opts.Limits.fixed() {
		return errLimitsFixed
	}
	b.limits.Store(&l)
	b.engine.SetAdmission(eventloop.Admission{Connections: l.Connections, Rate: l.ConnectionRate})
	b.measureAll()
	return nil
}

// SetListenerLimits is SetLimits for Listener.Limits: of the listeners with that name.
func (b *Broker) SetListenerLimits(name string, q Quota) error {
	if err := q.check("Listener.Limits"); err != nil {
		return err
	}
	b.engine.SetListenerAdmission(func(l *eventloop.Listener) eventloop.Admission {
		ln := l.Context.(*listener)
		if ln.Name == name {
			ln.quota.quota.Store(&q)
		}
		return ln.quota.quota.Load().admission()
	})
	b.measureAll()
	return nil
}

// measureAll has clients that are connected held to limits that are new.
func (b *Broker) measureAll() {
	for _, l := range b.loops {
		l.el.Post(func() {
			for c := range l.clients {
				c.measure()
			}
		})
	}
}
