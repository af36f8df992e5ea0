package loopmq

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"loopmq/metrics"
	"loopmq/store"
	"loopmq/trie"
)

// retainedMessage is a retained message in the index. An entry is there before the
// store has it, so that whoever subscribes meanwhile misses nothing.
type retainedMessage struct {
	*store.Message
	serial uint64 // entries that came later have larger ones; 0: it was read from the store
	loop   *loop  // whose commit brings it to the store; nil: none does
}

// retain puts p into the index of retained messages, or clears its topic if the
// payload is empty [MQTT-3.3.1-6], and reports whether the store must know, with
// the serial of the change. A message that exceeds the limits is passed on but not
// retained.
func (l *loop) retain(p *publication) (serial uint64, ok bool) {
	b, limits := l.b, l.b.limits.Load()
	topic := string(p.topic)
	if len(p.payload) == 0 {
		b.changeRetained(topic, func(_ retainedMessage, exists bool) (retainedMessage, bool) {
			ok, serial = exists || b.cluster != nil, b.retainedSerial.Add(1) // others may have set it
			return retainedMessage{}, false
		})
		return serial, ok
	}
	old, exists := b.retained.Get(p.topic)
	size := int64(len(p.topic) + len(p.payload) + len(p.properties))
	if exists {
		size -= int64(old.Size())
	}
	if !exists && limits.RetainedMessages >= 0 && b.retainedLen() >= limits.RetainedMessages ||
		limits.RetainedBytes >= 0 && b.retainedBytes.Load()+size > int64(limits.RetainedBytes) {
		b.metrics.RetainedRefused.Inc()
		b.log.Debug("retained_refused", "topic", topic)
		return 0, false
	}
	return b.indexRetained(topic, p.keep(), l), true
}

// indexRetained makes m the retained message of a topic.
func (b *Broker) indexRetained(topic string, m *store.Message, l *loop) (serial uint64) {
	b.changeRetained(topic, func(retainedMessage, bool) (retainedMessage, bool) {
		serial = b.retainedSerial.Add(1)
		return retainedMessage{m, serial, l}, true
	})
	return serial
}

// retainedLen is how many retained messages there are. What the broker says about
// itself is in the index too, but counts neither here nor in retainedBytes.
func (b *Broker) retainedLen() int { return b.retained.Len() - int(b.retainedSys.Load()) }

// changeRetained changes a topic in the index as edit says, see [trie.Index.Update].
func (b *Broker) changeRetained(topic string, edit func(m retainedMessage, exists bool) (retainedMessage, bool)) {
	var size, n int
	b.retained.Update(topic, func(old retainedMessage, existed bool) (retainedMessage, bool) {
		m, exists := edit(old, existed)
		size, n = 0, 0
		if exists {
			size, n = m.Size(), 1
		}
		if existed {
			size, n = size-old.Size(), n-1
		}
		return m, exists
	})
	if reserved([]byte(topic)) {
		b.retainedSys.Add(int64(n))
		return
	}
	b.retainedBytes.Add(int64(size))
}

// dropExpiredRetained clears a topic in the index whose message has expired.
func (b *Broker) dropExpiredRetained(topic string, now time.Time) {
	b.changeRetained(topic, func(m retainedMessage, exists bool) (retainedMessage, bool) {
		return m, exists && !m.Expired(now)
	})
}

// retainedCommitted is called when the commit of a change with this serial has
// returned, and sees to it that in the end the index and the store are the same.
//
// Loops change the index in one order, and their commits may reach the store in
// another. So whoever finds a change of another loop in the index that is newer
// than what it committed commits that too: whichever change comes last to the
// store is the one in the index then.
func (l *loop) retainedCommitted(op *store.Op, serial uint64, err error) {
	b, topic := l.b, op.Message.TopicName
	if err != nil || op.Result != store.Done {
		l.doubtRetained(string(topic), serial)
		return
	}
	if b.cluster != nil { // the store has the last word, and replays ask it
		return
	}
	m, exists := b.retained.Get(topic)
	switch cleared := len(op.Message.Payload) == 0; {
	case exists && m.serial == serial, !exists && cleared:
	case exists && m.serial > serial && (m.loop == l || m.loop == nil): // its commit comes behind this one, or there is none
	case exists && m.serial < serial: // read from the store too early
		b.changeRetained(string(topic), func(now retainedMessage, exists bool) (retainedMessage, bool) {
			if !exists || now.serial >= serial {
				return now, exists
			}
			return retainedMessage{op.Message, serial, l}, !cleared
		})
	default:
		if !exists {
			m = retainedMessage{Message: &store.Message{TopicName: topic}, serial: serial}
		}
		l.commits.add(store.Op{Kind: store.OpRetain, Message: m.Message}, func(op *store.Op, err error) {
			l.retainedCommitted(op, m.serial, err)
		})
	}
}

// retainedPage is how many topics are read from the store at a time.
const retainedPage = 1000

// doubtRetained reads a topic from the store again because a change with this
// serial is in the index, or was, that the store did not take.
func (l *loop) doubtRetained(topic string, serial uint64) {
	if l.doubted == nil {
		l.doubted = make(map[string]uint64)
	}
	l.doubted[topic] = max(serial, l.doubted[topic])
	l.rereadRetained()
}

// rereadRetained reads the next of the topics that are in doubt, until the store
// has answered for all of them.
func (l *loop) rereadRetained() {
	if l.rereading || len(l.doubted) == 0 {
		return
	}
	var topics []string
	var serials []uint64
	for topic, serial := range l.doubted {
		topics, serials = append(topics, topic), append(serials, serial)
		delete(l.doubted, topic)
		if len(topics) == retainedPage {
			break
		}
	}
	l.rereading = l.b.workers.do(func() {
		messages, err := l.b.store.Retained().Read(context.Background(), topics)
		l.el.Post(func() {
			l.rereading = false
			for i, topic := range topics {
				if err != nil {
					l.doubted[topic] = max(serials[i], l.doubted[topic])
				} else {
					l.b.restoreRetained(topic, serials[i], messages[i])
				}
			}
			if err != nil {
				l.b.storeAnswered(err)
				l.repeat(l.rereadRetained)
				return
			}
			l.rereadRetained()
		})
	})
}

// restoreRetained undoes the change with this serial: the store has another message
// for the topic, or nil. A newer change stays.
func (b *Broker) restoreRetained(topic string, serial uint64, stored *store.Message) {
	b.changeRetained(topic, func(m retainedMessage, exists bool) (retainedMessage, bool) {
		if exists && m.serial > serial {
			return m, true
		}
		return retainedMessage{Message: stored}, stored != nil
	})
}

// replay is the retained messages that a new subscription gets, as far as they
// are not sent.
type replay struct {
	sub    store.Subscription
	serial uint64 // of the index when the subscription began; what came later came as news
	topics *trie.Cursor[retainedMessage]
	topic  string // the one to go on with; empty: the next of topics

	// With a store that several nodes share the index only says which topics there
	// are: a page of messages is read at a time.
	page    []*store.Message
	reading bool // or the Authorizer is asked about the next one

	// judged is the last message whose source the Authorizer was asked about.
	judged    *store.Message
	judgement decision
}

// replays are the replays of a client: it gets one after the other.
type replays struct {
	queue    list.List // of *replay
	byFilter map[string]*list.Element
}

const (
	// replaySteps is how many places of the index a loop looks at, for all its
	// clients, before others have their turn.
	replaySteps = 500
	// replayAhead is how many may be under way to a durable session: the others
	// wait here rather than fill its queue.
	replayAhead = 256
)

// put adds a replay. It takes the place of one for the same subscription: that
// begins anew.
func (rs *replays) put(r *replay) {
	if e := rs.byFilter[r.sub.TopicFilter]; e != nil {
		e.Value = r
		return
	}
	if rs.byFilter == nil {
		rs.byFilter = make(map[string]*list.Element)
	}
	rs.byFilter[r.sub.TopicFilter] = rs.queue.PushBack(r)
}

func (rs *replays) remove(topicFilter string) {
	if e := rs.byFilter[topicFilter]; e != nil {
		rs.queue.Remove(e)
		delete(rs.byFilter, topicFilter)
	}
}

// replayRetained starts to send the retained messages that match a new
// subscription, with RETAIN 1 [MQTT-3.3.1-8]. It runs after the SUBACK was written.
//
// What matches is looked up as it is sent: a client that subscribes to much, and
// reads nothing, costs one place in the index for each of its subscriptions.
func (c *Client) replayRetained(sub *store.Subscription, serial uint64) {
	b := c.loop.b
	if b.retained.Len() == 0 {
		return
	}
	r := &replay{sub: *sub, serial: serial, topics: b.retained.Cursor(sub.TopicFilter)}
	if c.flow != nil && c.flow.replays != nil {
		c.flow.replays.put(r)
		return
	}
	if !c.replaySome(r) {
		f := c.flows()
		f.replays = &replays{}
		f.replays.put(r)
	}
}

// endReplay gives up the replay of a subscription that has ended [MQTT-3.10.4-2].
func (c *Client) endReplay(topicFilter string) {
	if f := c.flow; f != nil && f.replays != nil {
		if f.replays.remove(topicFilter); f.replays.queue.Len() == 0 {
			f.replays = nil
		}
	}
}

// replayOn sends retained messages as far as the client takes them: they wait for
// its output and its window, and are not dropped for want of room.
func (c *Client) replayOn() {
	rs := c.flow.replays
	for e := rs.queue.Front(); e != nil; e = rs.queue.Front() {
		r := e.Value.(*replay)
		if !c.replaySome(r) {
			return
		}
		rs.remove(r.sub.TopicFilter)
	}
	c.flow.replays = nil
}

// replaySome is replayOn for one subscription. It reports whether all is sent. A
// topic whose retained message has changed since the subscription began is left
// out: the new one came as news, so an old value never follows it.
func (c *Client) replaySome(r *replay) (all bool) {
	l := c.loop
	now := l.now()
	for {
		if r.reading {
			return false
		}
		if len(r.page) > 0 {
			if !c.replayUnlessNewer(r, r.page[0], now) {
				return false
			}
			r.page = r.page[1:]
			continue
		}
		if r.topic == "" {
			steps := l.replayTurn()
			if c.taps() {
				steps = new(int)
				*steps = math.MaxInt
			}
			var ok bool
			if r.topic, _, ok = r.topics.Next(steps); !ok {
				if r.topics.Done() {
					return true
				}
				l.replayLater(c)
				return false
			}
		}
		if l.b.cluster != nil && !reserved([]byte(r.topic)) {
			c.readRetained(r)
			return false
		}
		if m, exists := l.b.retained.Get([]byte(r.topic)); exists && !c.replayUnlessNewer(r, m.Message, now) {
			return false
		}
		r.topic = ""
	}
}

// replayUnlessNewer sends a retained message, and reports false if it has to wait.
func (c *Client) replayUnlessNewer(r *replay, m *store.Message, now time.Time) bool {
	indexed, exists := c.loop.b.retained.Get(m.TopicName)
	own := r.sub.Options.NoLocal && m.PublisherID == c.info.ClientID // [MQTT-3.8.3-3]
	if !exists || own || indexed.serial > r.serial || m.Expired(now) {
		return true
	}
	if c.loop.b.opts.CheckRetainSource && !c.taps() && m.PublisherID != "" {
		if d := c.sourceMay(r, m); d != allowed {
			return d == denied
		}
	}
	return c.replayOne(r, m)
}

// sourceMay says whether the publisher of a retained message may still publish it. If
// that isn't known it is asked for, and the replay goes on with the answer.
func (c *Client) sourceMay(r *replay, m *store.Message) decision {
	if r.judged == m {
		return r.judgement
	}
	s, l, topic := c.settings, c.loop, string(m.TopicName)
	if s.Authorizer == nil {
		return allowed
	}
	source := &ClientInfo{ClientID: m.PublisherID, Username: m.PublisherName}
	if s.fast != nil {
		if ok, known := s.fast.AuthorizeFast(source, ActionPublish, topic, m.QoS, true); known {
			return decided(ok)
		}
	}
	r.reading = l.b.authorizing.do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), authTimeout)
		defer cancel()
		ok := s.Authorizer.Authorize(ctx, source, ActionPublish, topic, m.QoS, true)
		l.el.Post(func() {
			r.reading, r.judged, r.judgement = false, m, decided(ok)
			c.advance()
		})
	})
	return undecided
}

// sourceMay says whether the publisher of a retained message may still publish it. It
// may block.
func (s *settings) sourceMay(ctx context.Context, m *store.Message) bool {
	if s.Authorizer == nil {
		return true
	}
	source, topic := &ClientInfo{ClientID: m.PublisherID, Username: m.PublisherName}, string(m.TopicName)
	if s.fast != nil {
		if ok, known := s.fast.AuthorizeFast(source, ActionPublish, topic, m.QoS, true); known {
			return ok
		}
	}
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	return s.Authorizer.Authorize(ctx, source, ActionPublish, topic, m.QoS, true) && ctx.Err() == nil
}

// retainedNow returns the retained message of a topic: with other nodes the store has
// the last word. ErrNoRetained: there is none.
func (b *Broker) retainedNow(ctx context.Context, topic string) (*store.Message, error) {
	indexed, exists := b.retained.Get([]byte(topic))
	m := indexed.Message
	if b.cluster != nil && !reserved([]byte(topic)) {
		messages, err := b.store.Retained().Read(ctx, []string{topic})
		if err != nil {
			return nil, fmt.Errorf("%w: read the retained message: %w", errStoreUnavailable, err)
		}
		m, exists = messages[0], messages[0] != nil
	}
	if !exists || m.Expired(b.store.Now()) {
		return nil, ErrNoRetained
	}
	return m, nil
}

// retainedAhead is how many retained messages are read from the store at a time for
// one subscription.
const retainedAhead = 64

// readRetained reads the messages of the next topics from the store.
func (c *Client) readRetained(r *replay) {
	topics := []string{r.topic}
	r.topic = ""
	for len(topics) < retainedAhead {
		topic, _, ok := r.topics.Next(c.loop.replayTurn())
		if !ok {
			break
		}
		if reserved([]byte(topic)) {
			r.topic = topic
			break
		}
		topics = append(topics, topic)
	}
	c.readRetainedTopics(r, topics)
}

func (c *Client) readRetainedTopics(r *replay, topics []string) {
	l, b := c.loop, c.loop.b
	r.reading = b.workers.do(func() {
		messages, err := b.store.Retained().Read(context.Background(), topics)
		l.el.Post(func() {
			if c.state != stateConnected {
				return
			}
			if err != nil {
				b.storeAnswered(err)
				l.repeat(func() { c.readRetainedTopics(r, topics) })
				return
			}
			r.reading = false
			for _, m := range messages {
				if m != nil {
					r.page = append(r.page, m)
				}
			}
			c.advance()
		})
	})
}

// replayTurn returns what is left of replaySteps in this turn.
func (l *loop) replayTurn() *int {
	if !l.replayScheduled {
		l.replayScheduled = true
		l.replayStepsLeft = replaySteps
		l.el.AtTurnEnd(l.replayNext)
	}
	return &l.replayStepsLeft
}

// replayLater lets a client go on when its turn comes.
func (l *loop) replayLater(c *Client) {
	if f := c.flows(); !f.replayWaits {
		f.replayWaits = true
		l.replaying = append(l.replaying, c)
	}
}

// replayNext lets those go on that wait for their turn. Who uses up the steps
// stands behind the others then.
func (l *loop) replayNext() {
	l.replayScheduled = false
	waiting := l.replaying
	l.replaying = nil
	for i, c := range waiting {
		if l.replayScheduled && l.replayStepsLeft == 0 {
			l.replaying = slices.Concat(waiting[i:], l.replaying)
			return
		}
		c.flow.replayWaits = false
		c.advance()
	}
}

// replayOne sends one retained message, and reports false if it has to wait.
func (c *Client) replayOne(r *replay, m *store.Message) bool {
	l := c.loop
	var p publication
	p.set(m)
	p.retain = true
	d := delivery{session: c.session, client: c, qos: l.b.deliveryQoS(m.QoS, r.sub.Options.QoS), retain: true, id: r.sub.SubscriptionIdentifier}
	switch {
	case c.taps():
		c.deliver(&p, &d)
	case d.qos == 0:
		reason, ok := c.send(&p, &d, 0, false)
		switch {
		case ok:
			l.m.MessagesDelivered[0].Inc()
		case reason == metrics.DropOutputFull:
			return false
		default:
			l.drop(&p, &d, reason)
		}
	case c.session.durable: // by way of its queue
		f := c.flows()
		if f.behind || f.storing+f.out.Len() >= c.replayAhead(m.Size()) {
			if !f.behind && f.storing == 0 {
				c.windowIsFull()
			}
			return false // a commit or an acknowledgement goes on with it
		}
		if l.commits.full() {
			f.storing++
			l.commits.after(func() {
				f.storing--
				c.advance()
			})
			return false
		}
		l.targets, l.routed = l.targets[:0], l.routed[:0]
		l.addTarget(&p, &d, &routed{})
		f.storing++
		p.afterCommit = true
		op := store.Op{Kind: store.OpPublish, Message: m, Targets: l.targets, IfRetained: l.b.cluster != nil}
		l.commit(&p, &routed{op: op}, func(*store.Op, error) {
			f.storing--
			c.advance()
		})
		return true // it counts when it is stored
	default:
		if f := c.flows(); f.queue.Len() > 0 || !f.out.CanSend() {
			c.windowIsFull()
			return false // an acknowledgement goes on with it
		}
		c.deliverLive(&p, &d)
	}
	l.m.MessagesMatched[d.qos].Inc()
	return true
}

// replayAhead is how many retained messages of a size may be under way to a
// durable session, within what its queue holds.
func (c *Client) replayAhead(size int) int {
	limits, n := &c.settings.limits, replayAhead
	if limits.QueueMessages > 0 {
		n = min(n, limits.QueueMessages/4)
	}
	if limits.QueueBytes > 0 {
		n = min(n, limits.QueueBytes/4/max(1, size))
	}
	return max(1, n)
}
