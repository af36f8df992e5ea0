//go:build linux

package loadtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// dialsMax is how many connections are set up at a time if no rate is given: below the backlog of every known broker (mosquitto
	// listens with 100), so that no SYN is dropped and repeated a second later. pacedMax is the same with a rate.
	dialsMax = 100
	pacedMax = 10_000
	// patience is how long a window without a Rate waits for deliveries that don't come before it goes on without them.
	patience = 2 * time.Second
	// dueMax bounds how many messages become due in a turn, so that a rate beyond all reason doesn't keep a loop from its mailbox.
	dueMax = 100_000
	// never is a time that doesn't come.
	never = 1<<63 - 1
)

// A flow is the messages of a scenario, or of a part of a mixed one, and the clients that send and get them. It is shared by all
// loops, and doesn't change while they run but for what says so.
type flow struct {
	*Scenario
	part        int
	first       int // what {n} counts from
	clients     int // of all processes, subscribers first
	subscribers int
	clientID    string // template
	topic       string // what topics begin with
	group       string // what share names begin with

	perMessage int  // deliveries of a message
	feedback   bool // windows count deliveries: all subscribers are this process's
	packetMax  int
	filler     []byte
	publishers []*publisher // by number; nil is another process's
	groups     []*group     // of shared subscriptions, by number; nil is another process's
	sections   []*section
	endpoints  [][]endpoint // of a gateway, by loop; nil without one

	resent     atomic.Bool // a publisher has sent messages again after a reconnect
	membership membership  // of groups
}

// A section is the part of a flow that is on one loop, which owns it.
type section struct {
	*flow
	loop    *loop
	clients []*client
	dials   dials
	running bool     // publish, visit, take over
	closing bool     // no client connects again
	audit   AuditQoS // what is known when it happens: duplicates, order, content

	publishers []*publisher
	waiting    []*publisher // may have room in their window
	schedule   schedule
	pending    uint64 // messages that were due, of all publishers of the section
	nextDue    int64

	available []*client // connects, takeover: who may connect next
	visits    schedule  // connects, takeover, at a rate
	visited   uint64
}

// A publisher is the state of a publishing client.
type publisher struct {
	client  *client
	section *section
	index   int // of all processes
	local   int // of the section
	head    []byte
	idAt    int

	window      int
	flights     inflight
	number      uint64 // of the next message
	owed        uint64 // messages that were due and weren't sent
	undelivered int    // deliveries, without a rate
	credited    int64  // when the last one came
	waiting     bool   // in section.waiting
	unpromised  spans  // numbers that were never acknowledged
	until       int64  // of the groups, when resumed was taken
	resumed     uint64 // the first number that no loss of a member explains
}

// A subscriber is the state of a subscribing client.
type subscriber struct {
	first   int      // publisher of streams[0]
	streams []stream // nil for a member of a group
	group   *group
	member  bool // of the group, as far as the broker is known to know
	missing bool // it was lost, and isn't a member again
	held    held
	since   int64   // when it came, or came back
	lost    bool    // its connection ended once as it shouldn't have
	replay  *replay // retained
}

// topicOf is what publisher i publishes to.
func (f *flow) topicOf(i int) string { return f.topic + "/" + strconv.Itoa(i) }

// filters is what a client subscribes to.
func (f *flow) filters(c *client) []string {
	var filters []string
	switch {
	case c.role == subscribing:
		switch f.Shape {
		case P2P, Offline:
			filters = append(filters, f.topicOf(c.number))
		case FanIn:
			filters = append(filters, f.topic+"/+")
		case FanOut:
			for i := range f.Publishers {
				filters = append(filters, f.topicOf(i))
			}
		case Shared:
			filters = append(filters, "$share/"+f.group+strconv.Itoa(c.number%f.Groups)+"/"+f.topic+"/+")
		case Retained:
			return nil // over and over, see replay
		}
	case c.role != idler:
		return nil
	}
	for i := range f.Filters {
		filters = append(filters, f.topic+"-more/"+roleNames[c.role]+"/"+strconv.Itoa(c.number)+"/"+strconv.Itoa(i))
	}
	return filters
}

// fill fills in a template for a client.
func (f *flow) fill(template string, c *client) string {
	n := f.first + c.number
	if c.role == publishing {
		n += f.subscribers
	}
	return expand(template, roleNames[c.role], c.number, n)
}

// durable says whether a client's session outlives its connection.
func (f *flow) durable(c *client) bool {
	switch c.role {
	case subscribing:
		return f.Durable && f.Shape != Retained
	case publishing:
		return f.DurablePublishers
	case idler:
		return f.Durable
	}
	return false
}

// newFlow makes the clients of a scenario, which has been checked, and spreads them over loops. first is what their numbers
// begin with.
func newFlow(s *Scenario, run string, part, first int, mixed bool, loops []*loop) *flow {
	prefix := ""
	if mixed {
		prefix = strconv.Itoa(part) + "-"
	}
	id := strings.NewReplacer("{run}", run, "{part}", prefix)
	f := &flow{
		Scenario: s, part: part, first: first,
		clientID: id.Replace(s.ClientID),
		topic:    id.Replace(s.Topic) + "/" + prefix + string(s.Shape),
		group:    run + "-" + prefix,
		feedback: s.Share.Of <= 1 || !s.crossing(),
		filler:   filler(s.Payload - stampBytes),
	}
	f.packetMax = s.Payload + len(f.topic) + 64<<10
	pairs := 0
	publishers, subscribers, connections := s.Publishers, s.Subscribers, 0
	switch s.Shape {
	case P2P, Offline:
		pairs, f.perMessage = s.Pairs, 1
		publishers, subscribers = pairs, pairs
	case FanIn, FanOut:
		f.perMessage = subscribers
	case Shared:
		f.perMessage = s.Groups
	case Retained:
	default:
		publishers, subscribers, connections = 0, 0, s.Connections
	}
	for _, l := range loops {
		section := &section{flow: f, loop: l, nextDue: never}
		section.dials.limit, section.dials.rate = max(1, dialsMax/len(loops)), 0
		if s.ConnectRate > 0 {
			section.dials.limit = max(1, pacedMax/len(loops))
			section.dials.rate = s.ConnectRate / float64(len(loops)*max(1, s.Share.Of))
		}
		l.sections = append(l.sections, section)
		f.sections = append(f.sections, section)
	}

	f.clients, f.subscribers = publishers+subscribers+connections, subscribers

	f.publishers = make([]*publisher, publishers)
	local := 0
	for i := range subscribers { // before publishers, so that they connect first
		if s.Shape == Shared && !s.Share.has(i%s.Groups) || s.Shape != Shared && !s.Share.has(i) {
			continue
		}
		f.addSubscriber(i, f.sections[local%len(loops)], publishers, len(loops))
		local++
	}
	local = 0
	for i := range publishers {
		if !s.Share.has(i) {
			continue
		}
		section := f.sections[local%len(loops)]
		local++
		p := &publisher{index: i, section: section, local: len(section.publishers)}
		p.client = section.add(publishing, i)
		p.client.publisher = p
		f.publishers[i] = p
		section.publishers = append(section.publishers, p)
	}
	for i := range connections {
		if !s.Share.has(i) {
			continue
		}
		section := f.sections[local%len(loops)]
		local++
		switch s.Shape {
		case Idle:
			section.add(idler, i)
		case Connects:
			section.available = append(section.available, section.add(visitor, i))
		case Takeover:
			a, b := section.add(taker, i), section.add(taker, i)
			a.other, b.other, b.spare = b, a, true
		}
	}
	return f
}

// add makes a client.
func (s *section) add(r role, number int) *client {
	c := &client{section: s, role: r, number: number, fd: -1}
	s.clients = append(s.clients, c)
	s.loop.clients = append(s.loop.clients, c)
	return c
}

func (f *flow) addSubscriber(i int, s *section, publishers, loops int) {
	sub := new(subscriber)
	switch f.Shape {
	case P2P, Offline:
		sub.first, sub.streams = i, newStreams(1)
	case FanIn, FanOut:
		sub.streams = newStreams(publishers)
	case Shared:
		if f.groups == nil {
			f.groups = make([]*group, f.Groups)
		}
		g := f.groups[i%f.Groups]
		if g == nil {
			g = newGroup(publishers, loops)
			f.groups[i%f.Groups] = g
		}
		sub.group = g
	case Retained:
		sub.replay = newReplay(f.Topics)
	}
	c := s.add(subscribing, i)
	c.subscriber = sub
}

// share is the section's part of the flow's rates.
func (s *section) share() float64 {
	return float64(len(s.publishers)) / float64(max(1, len(s.flow.publishers)))
}

// begin has publishers send, and others connect, from a time on.
func (s *section) begin(start int64) {
	s.running = true
	switch s.Shape {
	case Connects, Takeover:
		if s.ConnectRate > 0 {
			s.visits = schedule{start: start, rate: s.ConnectRate / float64(len(s.sections)*max(1, s.Share.Of)), ramp: s.RampUp.Seconds(), grid: grid}
		}
		return
	case Retained:
		for _, c := range s.clients {
			if c.subscriber != nil && c.state == up {
				s.loop.ask(c)
			}
		}
		return
	}
	if s.Rate > 0 && len(s.publishers) > 0 {
		step := grid
		if s.Shape == Offline {
			step = coarseGrid
		}
		// Loops take turns within the grid.
		start += int64(step) * int64(s.loop.index) / int64(len(s.sections))
		s.schedule = schedule{start: start, rate: s.Rate * s.share(), ramp: s.RampUp.Seconds(), grid: step}
		s.nextDue = start
		return
	}
	for _, p := range s.publishers {
		s.wake(p)
	}
}

// stop ends what begin began.
func (s *section) stop() {
	s.running = false
	s.nextDue = never
}

// due is when the section has to do something.
func (s *section) due() int64 {
	due := min(s.nextDue, s.dials.due())
	if s.running && s.visits.rate > 0 && len(s.available) > 0 && s.dials.busy < s.dials.limit {
		due = min(due, s.visits.at(s.visited))
	}
	return due
}

// turn does what is due, and what the turn has made room for.
func (s *section) turn() {
	l := s.loop
	s.dials.turn(l)
	if s.running && len(s.available) > 0 {
		s.cycle()
	}
	for range dueMax {
		if s.nextDue > l.now {
			break
		}
		p := s.publishers[s.pending%uint64(len(s.publishers))]
		s.pending++
		p.owed++
		s.nextDue = s.schedule.at(s.pending)
		s.wake(p)
	}
	for i := 0; i < len(s.waiting); i++ {
		p := s.waiting[i]
		p.waiting = false
		s.pump(p)
	}
	s.waiting = s.waiting[:0]
}

// wake has the publisher's window looked at when the turn has been read.
func (s *section) wake(p *publisher) {
	if !p.waiting {
		p.waiting = true
		s.waiting = append(s.waiting, p)
	}
}

// pump sends what p has to send and room for.
func (s *section) pump(p *publisher) {
	if s.Shape == Retained {
		s.pumpRetained(p)
		return
	}
	if !s.running {
		return
	}
	now := s.loop.now
	if s.Rate > 0 {
		for p.owed > 0 && s.room(p) {
			due := s.schedule.at(p.number*uint64(len(s.publishers)) + uint64(p.local))
			record(s.loop.counts.delay, now-due)
			p.owed--
			s.publish(p, due)
		}
		return
	}
	for s.room(p) && (!s.feedback || p.undelivered <= (p.window-1)*s.perMessage) {
		s.publish(p, now)
	}
}

// room says whether p may send a message now.
func (s *section) room(p *publisher) bool {
	c := p.client
	return c.state == up && len(c.out)+len(c.wire) < outMax && (s.QoS == 0 || !p.flights.full(p.window))
}

// publish sends p's next message.
func (s *section) publish(p *publisher, due int64) {
	l := s.loop
	if until := s.membership.until.Load(); until != p.until && due >= until {
		p.until, p.resumed = until, p.number
	}
	var id uint16
	if s.QoS > 0 {
		id = p.flights.push(p.number, due)
		l.underWay++
	}
	s.send(p, p.number, due, id, 0)
	p.number++
	l.counts.sent++
	l.counts.expected += uint64(s.perMessage)
	if s.feedback {
		l.owed += uint64(s.perMessage)
		if s.Rate == 0 {
			if p.undelivered == 0 {
				p.credited = l.now
			}
			p.undelivered += s.perMessage
		}
	}
}

// send writes a message.
func (s *section) send(p *publisher, number uint64, due int64, id uint16, flags byte) {
	c := p.client
	if p.head == nil {
		p.head, p.idAt = publishHead(s.Version, s.QoS, 0, s.topicOf(p.index), s.Payload)
	}
	b := s.loop.output(c)
	at := len(b)
	b = append(b, p.head...)
	if s.QoS > 0 {
		b[at] |= flags
		binary.BigEndian.PutUint16(b[at+p.idAt:], id)
	}
	b = stamp{uint32(p.index), uint32(number), due}.append(b)
	c.out = append(b, s.filler...)
}

// acknowledged takes an acknowledgement of the broker.
func (s *section) acknowledged(p *publisher, first byte, id uint16, code byte) error {
	l := s.loop
	m := p.flights.find(id)
	if m == nil {
		return fmt.Errorf("packet type %d for Packet Identifier %d, which isn't in use", first>>4, id)
	}
	switch {
	case code >= 0x80:
		l.fault(fmt.Sprintf("%s 0x%02X", [...]string{"PUBACK", "PUBREC", "PUBREL", "PUBCOMP"}[first>>4-4], code), p.client.clientID())
		if first != typePubcomp {
			s.giveUp(p, m)
		} else {
			l.underWay--
			p.flights.finish(m)
		}
	case first == typePubrec && s.QoS == 2:
		m.released = true
		p.client.out = appendAck(l.output(p.client), typePubrel, id)
		return nil
	case first == typePuback && s.QoS == 1, first == typePubcomp && s.QoS == 2 && m.released:
		record(l.counts.publishAck, l.now-m.due)
		l.counts.acknowledged++
		l.progress++
		l.underWay--
		p.flights.finish(m)
	default:
		return fmt.Errorf("packet type %d for QoS %d", first>>4, s.QoS)
	}
	s.wake(p)
	return nil
}

// giveUp takes a message for one that the broker has promised nothing for.
func (s *section) giveUp(p *publisher, m *flight) {
	p.unpromised = union(p.unpromised, spans{{m.number, m.number + 1}}, never)
	s.loop.underWay--
	p.flights.finish(m)
}

// abandonAll does so with all that p has under way and the broker hasn't taken.
func (s *section) abandonAll(p *publisher) {
	for p.flights.span > 0 {
		m := p.flights.at(0) // never one that is done
		if m.released {
			s.loop.underWay--
			p.flights.finish(m)
			continue
		}
		s.giveUp(p, m)
	}
}

// resume goes on after a CONNACK: with what the broker hasn't acknowledged, if the session outlives connections.
func (s *section) resume(p *publisher, g greeting) {
	p.window = 65_000 // below what Packet Identifiers can tell apart
	if s.Window > 0 {
		p.window = s.Window
	}
	p.window = min(p.window, g.receiveMaximum) // [MQTT-4.9.0-2]
	if s.QoS > g.maximumQoS {
		s.loop.fail(p.client, fmt.Sprintf("the broker's Maximum QoS is %d", g.maximumQoS), nil)
		return
	}
	if p.flights.span == 0 {
		return
	}
	// A retained message may be published twice: only the last counts.
	if s.Shape != Retained && (!s.durable(p.client) || !g.sessionPresent && s.QoS == 2) {
		s.abandonAll(p)
		return
	}
	s.resent.Store(true)
	for i := range p.flights.span {
		m := p.flights.at(i)
		switch id := p.flights.id(i); {
		case m.done:
		case s.Shape == Retained:
			m.released = false
			s.sendRetained(p, int(m.number)*s.Publishers+p.index, m.due, id)
		case m.released:
			p.client.out = appendAck(s.loop.output(p.client), typePubrel, id)
		case g.sessionPresent:
			s.send(p, m.number, m.due, id, flagDup) // [MQTT-3.3.1-1]
		default:
			s.send(p, m.number, m.due, id, 0)
		}
	}
}

// look goes on without deliveries that don't come.
func (s *section) look(p *publisher) {
	if p.undelivered > 0 && s.running && s.loop.now-p.credited > int64(patience) {
		p.undelivered = 0
		s.wake(p)
	}
}

// delivery takes a PUBLISH of the broker: it is looked up where it belongs, counted, and acknowledged.
func (l *loop) delivery(c *client, first byte, body []byte) error {
	s, sub := c.section, c.subscriber
	id, payload, err := splitPublish(s.Version, first, body)
	if err != nil {
		return err
	}
	qos := first >> 1 & 3
	if sub == nil || qos == 3 {
		return fmt.Errorf("%w: PUBLISH with QoS %d to a client with role %d", errMalformed, qos, c.role)
	}
	switch qos {
	case 1:
		c.out = appendAck(l.output(c), typePuback, id)
	case 2:
		c.out = appendAck(l.output(c), typePubrec, id)
		if !sub.held.add(id) { // it is the message that is here already
			return nil
		}
	}
	if s.closing && len(payload) == 0 && sub.replay != nil {
		return nil // what deletes a retained message, to who is subscribed yet
	}
	if qos != s.QoS {
		l.fault(fmt.Sprintf("delivered with QoS %d", qos), c.clientID())
	}
	if len(payload) != s.Payload || !bytes.Equal(payload[stampBytes:], s.filler) {
		s.corrupted(c, payload)
		return nil
	}
	st := readStamp(payload)
	if sub.replay != nil {
		l.replay(c, first, st)
		return nil
	}
	i := int(st.publisher) - sub.first
	streams, shared := sub.streams, sub.group
	if shared != nil {
		streams = shared.streams
	}
	if i < 0 || i >= len(streams) {
		s.corrupted(c, payload)
		return nil
	}
	if shared != nil && shared.locks != nil {
		lock := &shared.locks[i%len(shared.locks)]
		lock.Lock()
		defer lock.Unlock()
	}
	stream := &streams[i]
	n := stream.extend(st.number)
	if int64(n) < 0 {
		s.corrupted(c, payload)
		return nil
	}
	switch stream.arrive(n, shared == nil || st.due >= shared.until.Load()) {
	case late:
		if shared == nil { // those have no order
			s.audit.Promised.Reordered++
		}
	case twice:
		// At QoS 1 a reconnect of either side explains it, nothing else [MQTT-4.4.0-1].
		switch {
		case qos == 1 && (sub.lost || s.resent.Load()):
			s.audit.MayDrop.Duplicated++
		case qos == 1 && shared != nil: // one member may have it from another, of whose end we hear later
			shared.twice.Add(1)
		default:
			s.audit.Promised.Duplicated++
		}
		return nil
	}
	l.counts.delivered++
	l.got++
	l.progress++
	due := st.due
	if s.Shape == Offline {
		due = max(due, sub.since)
	}
	record(l.counts.deliver, l.now-due)
	if s.feedback && s.Rate == 0 {
		l.credit(s.flow.publishers[st.publisher])
	}
	return nil
}

// credit tells a publisher of a delivery.
func (l *loop) credit(p *publisher) {
	if p.section.loop == l {
		p.credit(1)
		return
	}
	if l.credits == nil {
		l.credits = make([][]*publisher, len(l.run.loops))
	}
	i := p.section.loop.index
	l.credits[i] = append(l.credits[i], p)
}

func (p *publisher) credit(n int) {
	p.undelivered = max(p.undelivered-n, 0)
	p.credited = p.section.loop.now
	p.section.wake(p)
}

// handCredits tells other loops of the deliveries of this turn.
func (l *loop) handCredits() {
	for i, list := range l.credits {
		if len(list) == 0 {
			continue
		}
		batch := slices.Clone(list)
		l.credits[i] = list[:0]
		l.run.loops[i].post(func() {
			for _, p := range batch {
				p.credit(1)
			}
		})
	}
}

func (s *section) corrupted(c *client, payload []byte) {
	s.audit.Promised.Corrupted++
	s.loop.fault("a payload that nobody sent", fmt.Sprintf("%s: %d bytes, beginning % x", c.clientID(), len(payload), payload[:min(len(payload), 24)]))
}

// came says that the subscriber is connected.
func (sub *subscriber) came(sessionPresent bool, now int64) {
	if !sessionPresent {
		sub.held = held{}
	}
	sub.since = now
}

// joined says that the broker knows for the first time what the subscriber wants: until then it needn't get anything.
func (sub *subscriber) joined() {
	for i := range sub.streams {
		sub.streams[i].away = false
	}
}

// left says that the subscriber's connection has ended as it shouldn't have.
func (sub *subscriber) left(c *client) {
	sub.lost = true
	if sub.replay != nil {
		c.section.loop.got += sub.replay.interrupted()
	}
	if sub.group != nil {
		sub.group.lost.Store(true)
	}
	if c.section.durable(c) {
		return
	}
	sub.held = held{}
	for i := range sub.streams {
		sub.streams[i].leave()
	}
	if sub.group != nil {
		c.section.lose(sub, c.section.loop.now)
	}
}
