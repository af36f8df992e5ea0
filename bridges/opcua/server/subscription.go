package opcuaserver

import (
	"cmp"
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"
)

const (
	// publishesMax bounds the Publish requests of a session that wait.
	publishesMax = 20
	// notificationsMax and notificationBytes bound one message, resendMax and resendBytes those that Republish finds of a subscription.
	notificationsMax  = 1000
	notificationBytes = 1 << 20
	resendMax         = 20
	resendBytes       = 4 << 20

	publishingMost = time.Hour
	keepAliveMost  = 10 * time.Minute
	lifetimeTotal  = time.Hour
)

// publishing is a Publish request that waits for something to be told.
type publishing struct {
	request uint32
	header  *ua.ResponseHeader
	results []ua.StatusCode
}

// subscription tells a session what changes. The server's lock guards it. [OPC 10000-4, 5.13.1]
type subscription struct {
	id                  uint32
	session             *session
	interval            time.Duration
	keepAlive, lifetime uint32
	most                int
	priority            uint8
	enabled             bool

	items map[uint32]*item
	ready []*item // have something to tell

	due      time.Time
	silent   uint32 // intervals without a message
	unasked  uint32 // intervals without a request of the client
	told     bool   // there was a message
	late     bool   // something waits for a Publish request
	more     bool   // there is more to tell than one message has
	sequence uint32
	resend   []sentMessage
	resent   int                     // bytes of these
	pending  *ua.NotificationMessage // the connection had no room for it
}

type sentMessage struct {
	message *ua.NotificationMessage
	bytes   int
}

// revise fits what a client asks for into bounds.
func (s *server) revise(interval float64, keepAlive, lifetime uint32) (time.Duration, uint32, uint32) {
	t := s.setup.PublishingInterval
	if interval > float64(t/time.Millisecond) { // NaN isn't
		t = time.Duration(min(interval, float64(publishingMost/time.Millisecond)) * float64(time.Millisecond))
	}
	if keepAlive == 0 {
		keepAlive = 10
	}
	keepAlive = min(keepAlive, uint32(max(1, keepAliveMost/t)))
	lifetime = max(min(lifetime, uint32(max(1, lifetimeTotal/t))), 3*keepAlive)
	return t, keepAlive, lifetime
}

func (s *server) createSubscription(ss *session, q *ua.CreateSubscriptionRequest) (ua.Response, error) {
	interval, keepAlive, lifetime := s.revise(q.RequestedPublishingInterval, q.RequestedMaxKeepAliveCount, q.RequestedLifetimeCount)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ss.over:
		return nil, ua.StatusBadSessionClosed
	case len(ss.subscriptions) >= s.setup.Subscriptions:
		s.refuse(refusedSubscriptions)
		return nil, ua.StatusBadTooManySubscriptions
	}
	s.mu.lastSubscription++
	sub := &subscription{
		id: s.mu.lastSubscription, session: ss, interval: interval, keepAlive: keepAlive, lifetime: lifetime, most: notificationsOf(q.MaxNotificationsPerPublish),
		priority: q.Priority, enabled: q.PublishingEnabled, items: make(map[uint32]*item), due: time.Now().Add(interval),
	}
	ss.subscriptions[sub.id] = sub
	s.mu.subscriptions++
	s.wake()
	return &ua.CreateSubscriptionResponse{
		ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), SubscriptionID: sub.id, RevisedPublishingInterval: milliseconds(interval),
		RevisedLifetimeCount: lifetime, RevisedMaxKeepAliveCount: keepAlive,
	}, nil
}

func notificationsOf(asked uint32) int {
	if asked == 0 || asked > notificationsMax {
		return notificationsMax
	}
	return int(asked)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (s *server) modifySubscription(ss *session, q *ua.ModifySubscriptionRequest) (ua.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := ss.subscriptionLocked(q.SubscriptionID)
	if err != nil {
		return nil, err
	}
	sub.interval, sub.keepAlive, sub.lifetime = s.revise(q.RequestedPublishingInterval, q.RequestedMaxKeepAliveCount, q.RequestedLifetimeCount)
	sub.most, sub.priority, sub.silent = notificationsOf(q.MaxNotificationsPerPublish), q.Priority, 0
	sub.due = time.Now().Add(sub.interval)
	s.wake()
	return &ua.ModifySubscriptionResponse{
		ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), RevisedPublishingInterval: milliseconds(sub.interval),
		RevisedLifetimeCount: sub.lifetime, RevisedMaxKeepAliveCount: sub.keepAlive,
	}, nil
}

// subscriptionLocked returns a subscription that its client asks something for.
func (ss *session) subscriptionLocked(id uint32) (*subscription, error) {
	sub := ss.subscriptions[id]
	if sub == nil {
		return nil, ua.StatusBadSubscriptionIDInvalid
	}
	sub.unasked = 0
	return sub, nil
}

// eachLocked does something to subscriptions of a session, by their ids.
func (ss *session) eachLocked(ids []uint32, do func(*subscription)) (results []ua.StatusCode) {
	for _, i := range ids {
		sub, err := ss.subscriptionLocked(i)
		if err != nil {
			results = append(results, ua.StatusBadSubscriptionIDInvalid)
			continue
		}
		do(sub)
		results = append(results, ua.StatusOK)
	}
	return results
}

func (s *server) setPublishingMode(ss *session, q *ua.SetPublishingModeRequest) (ua.Response, error) {
	if err := several(len(q.SubscriptionIDs)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &ua.SetPublishingModeResponse{
		ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK),
		Results:        ss.eachLocked(q.SubscriptionIDs, func(sub *subscription) { sub.enabled = q.PublishingEnabled }),
	}, nil
}

func (s *server) deleteSubscriptions(ss *session, q *ua.DeleteSubscriptionsRequest) (ua.Response, error) {
	if err := several(len(q.SubscriptionIDs)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &ua.DeleteSubscriptionsResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), Results: ss.eachLocked(q.SubscriptionIDs, s.removeLocked)}
	s.answerAllLocked(ss)
	return r, nil
}

// answerAllLocked answers the Publish requests of a session that has nothing more to be told.
func (s *server) answerAllLocked(ss *session) {
	if len(ss.subscriptions) > 0 {
		return
	}
	for _, p := range ss.publishes {
		ss.channel.trySend(response{request: p.request, body: faultOf(p.header, ua.StatusBadNoSubscription)})
	}
	ss.publishes = nil
}

// removeLocked ends a subscription.
func (s *server) removeLocked(sub *subscription) {
	if sub.session.subscriptions[sub.id] != sub {
		return
	}
	for _, it := range sub.ready { // else each would be looked for
		it.isReady = false
	}
	sub.ready = nil
	for _, it := range sub.items {
		s.dropLocked(it)
	}
	s.forgetLocked(sub, 0, len(sub.resend))
	delete(sub.session.subscriptions, sub.id)
	s.mu.subscriptions--
}

// publish takes a request to be told something. [OPC 10000-4, 5.13.5]
func (s *server) publish(ss *session, request uint32, q *ua.PublishRequest) (ua.Response, error) {
	if len(q.SubscriptionAcknowledgements) > operationsMax {
		return nil, ua.StatusBadTooManyOperations
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ss.over:
		return nil, ua.StatusBadSessionClosed
	case len(ss.subscriptions) == 0:
		return nil, ua.StatusBadNoSubscription
	}
	p := publishing{request: request, header: responseHeader(q.RequestHeader, ua.StatusOK)}
	for _, a := range q.SubscriptionAcknowledgements {
		p.results = append(p.results, s.acknowledgeLocked(ss, a))
	}
	if len(ss.publishes) >= publishesMax {
		first := ss.publishes[0]
		ss.publishes = ss.publishes[1:]
		ss.channel.trySend(response{request: first.request, body: faultOf(first.header, ua.StatusBadTooManyPublishRequests)})
	}
	ss.publishes = append(ss.publishes, p)
	for _, sub := range ss.subscriptions {
		sub.unasked = 0
	}
	s.tellLateLocked(ss)
	return nil, nil
}

func (s *server) acknowledgeLocked(ss *session, a *ua.SubscriptionAcknowledgement) ua.StatusCode {
	sub := ss.subscriptions[a.SubscriptionID]
	if sub == nil {
		return ua.StatusBadSubscriptionIDInvalid
	}
	for i := range sub.resend {
		if sub.resend[i].message.SequenceNumber == a.SequenceNumber {
			s.forgetLocked(sub, i, i+1)
			return ua.StatusOK
		}
	}
	return ua.StatusBadSequenceNumberUnknown
}

// tellLateLocked answers waiting requests of a session for subscriptions whose time was before.
func (s *server) tellLateLocked(ss *session) {
	var late []*subscription
	for _, sub := range ss.subscriptions {
		if sub.late {
			late = append(late, sub)
		}
	}
	slices.SortFunc(late, func(a, b *subscription) int { return cmp.Or(cmp.Compare(b.priority, a.priority), a.due.Compare(b.due)) })
	for _, sub := range late {
		s.tellLocked(sub)
	}
}

// cycleLocked is what a subscription does at the end of each interval.
func (s *server) cycleLocked(sub *subscription, now time.Time) {
	if sub.due = sub.due.Add(sub.interval); sub.due.Before(now) {
		sub.due = now.Add(sub.interval)
	}
	sub.silent++
	if len(sub.session.publishes) == 0 {
		if sub.unasked++; sub.unasked >= sub.lifetime {
			s.log.Info("opcua_server_subscription_ended", "username", sub.session.username)
			s.removeLocked(sub)
			return
		}
	}
	if sub.late || sub.pending != nil || !sub.told || sub.silent >= sub.keepAlive || sub.enabled && len(sub.ready) > 0 {
		s.tellLocked(sub)
	}
}

// tellLocked sends what there is to tell, or that there is nothing, if the client has asked for it.
func (s *server) tellLocked(sub *subscription) {
	for {
		ss := sub.session
		if len(ss.publishes) == 0 || ss.channel == nil {
			sub.late = true
			return
		}
		m := sub.pending
		if m == nil {
			m = s.nextLocked(sub)
		}
		p := ss.publishes[0]
		r := &ua.PublishResponse{
			ResponseHeader: p.header, SubscriptionID: sub.id, MoreNotifications: sub.more, NotificationMessage: m, Results: p.results,
		}
		for _, k := range sub.resend {
			r.AvailableSequenceNumbers = append(r.AvailableSequenceNumbers, k.message.SequenceNumber)
		}
		if !ss.channel.trySend(response{request: p.request, body: r}) {
			sub.pending, sub.late = m, true
			return
		}
		ss.publishes = ss.publishes[1:]
		sub.pending, sub.late, sub.told, sub.silent = nil, false, true, 0
		if !sub.more {
			return
		}
	}
}

// nextLocked makes a message of what there is to tell; without data it says that the subscription lives.
func (s *server) nextLocked(sub *subscription) *ua.NotificationMessage {
	m := &ua.NotificationMessage{SequenceNumber: sub.sequence + 1, PublishTime: time.Now()}
	sub.more = false
	if !sub.enabled || len(sub.ready) == 0 {
		return m
	}
	d, size := &ua.DataChangeNotification{}, 0
	for len(sub.ready) > 0 && len(d.MonitoredItems) < sub.most && size < notificationBytes {
		it := sub.ready[0]
		v := it.queue[0]
		size += bytesOf(v)
		s.takeLocked(it)
		d.MonitoredItems = append(d.MonitoredItems, &ua.MonitoredItemNotification{ClientHandle: it.handle, Value: dataValue(v, it.stamps)})
		if len(it.queue) == 0 {
			it.isReady = false
			sub.ready = sub.ready[1:]
		}
	}
	if len(sub.ready) == 0 {
		sub.ready = nil
	}
	sub.more = len(sub.ready) > 0
	m.NotificationData = []*ua.ExtensionObject{ua.NewExtensionObject(d)}
	s.rememberLocked(sub, m, size)
	return m
}

// rememberLocked keeps a message until it is acknowledged, or until there is too much: of its subscription, which keeps the newest all
// the same, or of all subscriptions, where this one gives way.
func (s *server) rememberLocked(sub *subscription, m *ua.NotificationMessage, size int) {
	if sub.sequence++; sub.sequence == ^uint32(0) {
		sub.sequence = 0
	}
	sub.resend = append(sub.resend, sentMessage{m, size})
	sub.resent += size
	s.mu.resent += size
	for n := len(sub.resend); n > resendMax || n > 1 && sub.resent > resendBytes || n > 0 && s.mu.resent > s.resentBytes(); n-- {
		s.forgetLocked(sub, 0, 1)
	}
}

// forgetLocked drops messages that Republish would find, from i up to j.
func (s *server) forgetLocked(sub *subscription, i, j int) {
	for _, k := range sub.resend[i:j] {
		sub.resent -= k.bytes
		s.mu.resent -= k.bytes
	}
	sub.resend = slices.Delete(sub.resend, i, j)
}

// resentBytes bounds what is kept for Republish.
func (s *server) resentBytes() int { return int(s.setup.MemoryBytes / 8) }

func (s *server) republish(ss *session, q *ua.RepublishRequest) (ua.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := ss.subscriptionLocked(q.SubscriptionID)
	if err != nil {
		return nil, err
	}
	for _, k := range sub.resend {
		if k.message.SequenceNumber == q.RetransmitSequenceNumber {
			return &ua.RepublishResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), NotificationMessage: k.message}, nil
		}
	}
	return nil, ua.StatusBadMessageNotAvailable
}
