package opcuabridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"loopmq"
	"loopmq/metrics"
)

// Why a connection is given up though it may be there.
var (
	errNotDecoded = errors.New("the server's notifications can't be decoded")
	errResponse   = errors.New("the server's response is not to the request")
)

const (
	// operationsMax is how many nodes a request is about.
	operationsMax = 500
	// undecodedMax is after how many notifications in a row that can't be decoded there is a new connection.
	undecodedMax = 10
	// failedRescan is how often mappings are looked up again while some have failed.
	failedRescan = 30 * time.Second
	// republishMax bounds what is asked for again of one subscription.
	republishMax = 1000
	// lifetimeMin is how long a server keeps a subscription at least that nobody asks about.
	lifetimeMin = time.Minute
)

// link is an endpoint's client at its server, from connection to connection. All but live belongs to the goroutine of run.
type link struct {
	holder   *holder
	endpoint *Endpoint
	caller   *loopmq.Caller
	fence    uint64
	ending   context.Context // ends if the endpoint is to end, and not if the lease was lost

	told   status
	toldAt time.Time
	since  time.Time

	session       *session // nil: there is none to go on with
	namespaces    []string
	subscriptions map[time.Duration]*subscription // by publishing interval
	items         map[itemKey]*item
	byHandle      map[uint32]*item
	byTopic       map[string]*item
	handle        uint32 // the last one
	failures      []failure
	gone          int // items whose nodes are gone
	scanned       time.Time
	acks          []*ua.SubscriptionAcknowledgement

	live atomic.Pointer[live] // nil: not connected
}

// live is what commands need of a connection.
type live struct {
	client     *client
	namespaces []string
	writes     map[string]*item        // by topic
	types      map[string]dataType     // of nodes, by id; the commander's
	methods    map[*Call][]ua.Argument // the commander's
}

// subscription is one at the server.
type subscription struct {
	id   uint32
	last uint32 // sequence number; 0: none yet
}

// itemKey is a node of a mapping.
type itemKey struct {
	mapping int
	node    string
}

// item is a node that is monitored, written, or both.
type item struct {
	key        itemKey
	mapping    *Mapping
	node       *ua.NodeID
	place      place
	topic      string // "": it isn't monitored
	writeTopic string // "": it isn't written
	handle     uint32
	id         uint32 // the server's
	gone       bool   // its last value says that there is no such node
}

// run keeps connecting until ctx ends.
func (l *link) run(ctx context.Context) {
	l.tell(ctx, stateConnecting, nil)
	delay := l.endpoint.RetryMin
	for {
		begun := time.Now()
		err := l.connect(ctx)
		if ctx.Err() != nil {
			break
		}
		l.tell(ctx, stateDisconnected, err)
		if l.caller.Err() != nil {
			return
		}
		if time.Since(begun) > l.endpoint.RetryMax {
			delay = l.endpoint.RetryMin
		}
		if !wait(ctx, delay/2+rand.N(delay/2+1)) {
			break
		}
		delay = min(2*delay, l.endpoint.RetryMax)
	}
	l.holder.metrics.Connected.Store(false)
	if l.ending.Err() != nil {
		l.forget()
		l.tell(context.WithoutCancel(ctx), stateStopped, nil)
	}
}

// forget is what follows when the server has nothing of this client any more.
func (l *link) forget() {
	l.subscriptions = make(map[time.Duration]*subscription)
	l.items = make(map[itemKey]*item)
	l.byHandle = make(map[uint32]*item)
	l.byTopic = make(map[string]*item)
	l.failures, l.acks, l.gone = nil, nil, 0
	l.scanned = time.Time{}
}

// keepAlive is how often the server says something of a subscription at least.
func (e *Endpoint) keepAlive() time.Duration {
	longest := max(e.RequestTimeout, e.PublishingInterval)
	for i := range e.Mappings {
		longest = max(longest, e.Mappings[i].PublishingInterval)
	}
	return longest
}

// connect is one connection, from its beginning to its end.
func (l *link) connect(ctx context.Context) (err error) {
	e, m := l.endpoint, l.holder.metrics
	established := false
	defer func() {
		if !established && ctx.Err() == nil {
			m.Connects[metrics.OPCUAFailed].Inc()
		}
	}()
	setup, cancel := context.WithTimeout(ctx, 3*e.RequestTimeout)
	defer cancel()
	d, err := e.find(setup)
	if err != nil {
		return err
	}
	c, err := e.connect(setup, d, 2*e.keepAlive()+e.RequestTimeout)
	if err != nil {
		return err
	}
	defer func() {
		l.live.Store(nil)
		m.Connected.Store(false)
		c.leave(ctx.Err() != nil)
	}()
	result := metrics.OPCUAResumed
	if l.session != nil {
		switch err := e.activate(setup, c, l.session, d); {
		case errors.Is(err, errClosed): // which says nothing of the session
			return err
		case err != nil:
			l.session = nil
		}
	}
	if l.session == nil {
		result = metrics.OPCUANewSession
		l.forget()
		s, err := e.create(setup, c)
		if err != nil {
			return fmt.Errorf("create a session: %w", err)
		}
		if err := e.activate(setup, c, s, d); err != nil {
			return fmt.Errorf("activate the session: %w", err)
		}
		if l.namespaces, err = l.readNamespaces(setup, c); err != nil {
			return fmt.Errorf("read the namespaces: %w", err)
		}
		l.session = s
	}
	cancel()
	established = true
	m.Connects[result].Inc()
	if result == metrics.OPCUAResumed {
		if err := l.catchUp(ctx, c); err != nil {
			return err
		}
	}
	if err := l.sync(ctx, c); err != nil {
		return err
	}
	return l.listen(ctx, c)
}

// send asks a server, within a timeout; 0: as long as it may be silent.
func send[R any](ctx context.Context, c *client, timeout time.Duration, req ua.Request) (*R, error) {
	return request[R](ctx, c.channel, cmp.Or(timeout, c.silence), c.session.token, req)
}

// readNamespaces reads the NamespaceArray.
func (l *link) readNamespaces(ctx context.Context, c *client) ([]string, error) {
	values, err := l.read(ctx, c, []*ua.NodeID{ua.NewNumericNodeID(0, id.Server_NamespaceArray)}, ua.AttributeIDValue)
	if err != nil {
		return nil, err
	}
	namespaces, ok := valueOf(values[0]).([]string)
	if !ok {
		return nil, errResponse
	}
	return namespaces, nil
}

// read reads an attribute of nodes.
func (l *link) read(ctx context.Context, c *client, nodes []*ua.NodeID, attribute ua.AttributeID) ([]*ua.DataValue, error) {
	var values []*ua.DataValue
	for some := range slices.Chunk(nodes, operationsMax) {
		req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither}
		for _, n := range some {
			req.NodesToRead = append(req.NodesToRead, &ua.ReadValueID{NodeID: n, AttributeID: attribute, DataEncoding: &ua.QualifiedName{}})
		}
		res, err := send[ua.ReadResponse](ctx, c, l.endpoint.RequestTimeout, req)
		if err != nil {
			return nil, err
		}
		if len(res.Results) != len(some) {
			return nil, errResponse
		}
		values = append(values, res.Results...)
	}
	return values, nil
}

// sync looks up the mappings, and has the server monitor what it doesn't yet.
func (l *link) sync(ctx context.Context, c *client) error {
	if err := l.drop(ctx, c); err != nil {
		return fmt.Errorf("delete monitored items: %w", err)
	}
	found, failures, err := l.resolve(ctx, c)
	if err != nil {
		return fmt.Errorf("look up nodes: %w", err)
	}
	l.failures, l.scanned = failures, time.Now()
	fresh := make(map[time.Duration][]*item)
	for _, it := range found {
		if l.items[it.key] != nil {
			continue
		}
		if it.topic == "" {
			l.items[it.key] = it
			continue
		}
		if other := l.byTopic[it.topic]; other != nil && other.key != it.key {
			l.fail(it, fmt.Errorf("its topic %s is that of %s, too", it.topic, other.place.node))
			continue
		}
		l.byTopic[it.topic] = it
		fresh[it.mapping.PublishingInterval] = append(fresh[it.mapping.PublishingInterval], it)
	}
	for interval, items := range fresh {
		if err := l.monitor(ctx, c, interval, items); err != nil {
			return fmt.Errorf("create monitored items: %w", err)
		}
	}
	writes := make(map[string]*item)
	for _, it := range l.items {
		if it.writeTopic != "" {
			writes[it.writeTopic] = it
		}
	}
	l.live.Store(&live{client: c, namespaces: l.namespaces, writes: writes, types: make(map[string]dataType), methods: make(map[*Call][]ua.Argument)})
	l.tell(ctx, stateConnected, nil)
	return nil
}

func (l *link) fail(it *item, err error) {
	l.failures = append(l.failures, failure{it.place.node, err.Error()})
}

// drop ends the items whose nodes are gone: a node that comes back is another one to the server, which tells of it by another
// item only.
func (l *link) drop(ctx context.Context, c *client) error {
	if l.gone == 0 {
		return nil
	}
	gone := make(map[time.Duration][]uint32)
	for key, it := range l.items {
		if it.gone {
			gone[it.mapping.PublishingInterval] = append(gone[it.mapping.PublishingInterval], it.id)
			delete(l.items, key)
			delete(l.byHandle, it.handle)
			delete(l.byTopic, it.topic)
		}
	}
	l.gone = 0
	for interval, ids := range gone {
		for some := range slices.Chunk(ids, operationsMax) {
			_, err := send[ua.DeleteMonitoredItemsResponse](ctx, c, l.endpoint.RequestTimeout, &ua.DeleteMonitoredItemsRequest{
				SubscriptionID: l.subscriptions[interval].id, MonitoredItemIDs: some,
			})
			var status ua.StatusCode
			if err != nil && !errors.As(err, &status) { // a server that has none of them is right, too
				return err
			}
		}
	}
	return nil
}

// seen notes whether the node of an item is there, as its value says.
func (l *link) seen(it *item, status ua.StatusCode) {
	gone := status == ua.StatusBadNodeIDUnknown || status == ua.StatusBadNodeIDInvalid
	switch {
	case gone && !it.gone:
		l.gone++
	case !gone && it.gone:
		l.gone--
	}
	it.gone = gone
}

// subscribe returns the subscription for an interval.
func (l *link) subscribe(ctx context.Context, c *client, interval time.Duration) (*subscription, error) {
	if s := l.subscriptions[interval]; s != nil {
		return s, nil
	}
	keepAlive := max(1, uint32(l.endpoint.RequestTimeout/interval))
	lifetime := max(3*keepAlive, uint32(max(lifetimeMin, l.endpoint.SessionTimeout)/interval))
	res, err := send[ua.CreateSubscriptionResponse](ctx, c, l.endpoint.RequestTimeout, &ua.CreateSubscriptionRequest{
		RequestedPublishingInterval: float64(interval) / float64(time.Millisecond), RequestedLifetimeCount: lifetime, RequestedMaxKeepAliveCount: keepAlive,
		PublishingEnabled: true,
	})
	if err != nil {
		return nil, err
	}
	s := &subscription{id: res.SubscriptionID}
	l.subscriptions[interval] = s
	return s, nil
}

// monitor creates monitored items.
func (l *link) monitor(ctx context.Context, c *client, interval time.Duration, items []*item) error {
	s, err := l.subscribe(ctx, c, interval)
	if err != nil {
		return err
	}
	var plain []*item // those that the server takes without a filter only
	for step, rest := operationsMax, items; len(rest) > 0; {
		some := rest[:min(step, len(rest))]
		results, err := l.create(ctx, c, s, some, true)
		if errors.Is(err, ua.StatusBadTooManyOperations) && step > 1 {
			step /= 2
			continue
		}
		if err != nil {
			return err
		}
		rest = rest[len(some):]
		for i, r := range results {
			if r == ua.StatusBadFilterNotAllowed && some[i].mapping.Tree != "" { // a deadband is for the numbers of a tree
				plain = append(plain, some[i])
				continue
			}
			l.created(some[i], r)
		}
	}
	for some := range slices.Chunk(plain, operationsMax) {
		results, err := l.create(ctx, c, s, some, false)
		if err != nil {
			return err
		}
		for i, r := range results {
			l.created(some[i], r)
		}
	}
	return nil
}

func (l *link) created(it *item, r ua.StatusCode) {
	if isBad(r) {
		delete(l.byHandle, it.handle)
		delete(l.byTopic, it.topic)
		l.fail(it, errors.New(statusName(r)))
		return
	}
	l.items[it.key] = it
}

// create is one request.
func (l *link) create(ctx context.Context, c *client, s *subscription, items []*item, filtered bool) ([]ua.StatusCode, error) {
	req := &ua.CreateMonitoredItemsRequest{SubscriptionID: s.id, TimestampsToReturn: ua.TimestampsToReturnBoth}
	for _, it := range items {
		if it.handle == 0 {
			l.handle++
			it.handle = l.handle
		}
		l.byHandle[it.handle] = it
		m := it.mapping
		sampling := -1.0 // the publishing interval
		if m.SamplingInterval > 0 {
			sampling = float64(m.SamplingInterval) / float64(time.Millisecond)
		}
		p := &ua.MonitoringParameters{ClientHandle: it.handle, SamplingInterval: sampling, QueueSize: m.Queue, DiscardOldest: true}
		switch {
		case !filtered:
		case m.Deadband > 0:
			p.Filter = deadband(ua.DeadbandTypeAbsolute, m.Deadband)
		case m.PercentDeadband > 0:
			p.Filter = deadband(ua.DeadbandTypePercent, m.PercentDeadband)
		}
		req.ItemsToCreate = append(req.ItemsToCreate, &ua.MonitoredItemCreateRequest{
			ItemToMonitor:  &ua.ReadValueID{NodeID: it.node, AttributeID: ua.AttributeIDValue, DataEncoding: &ua.QualifiedName{}},
			MonitoringMode: ua.MonitoringModeReporting, RequestedParameters: p,
		})
	}
	res, err := send[ua.CreateMonitoredItemsResponse](ctx, c, l.endpoint.RequestTimeout, req)
	if err != nil {
		return nil, err
	}
	if len(res.Results) != len(items) {
		return nil, errResponse
	}
	results := make([]ua.StatusCode, len(items))
	for i, r := range res.Results {
		results[i], items[i].id = r.StatusCode, r.MonitoredItemID
	}
	return results, nil
}

func deadband(t ua.DeadbandType, value float64) *ua.ExtensionObject {
	return ua.NewExtensionObject(&ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatusValue, DeadbandType: uint32(t), DeadbandValue: value})
}

// listen asks for notifications until the connection ends. There is one request at a time: the next says that what came is
// published.
func (l *link) listen(ctx context.Context, c *client) error {
	undecoded := 0
	for {
		if l.due() {
			if err := l.sync(ctx, c); err != nil {
				return err
			}
		}
		if len(l.subscriptions) == 0 {
			if !wait(ctx, l.endpoint.RequestTimeout/2) {
				return ctx.Err()
			}
			if err := l.alive(ctx, c); err != nil {
				return err
			}
			continue
		}
		res, err := send[ua.PublishResponse](ctx, c, 0, &ua.PublishRequest{SubscriptionAcknowledgements: l.acks})
		var status ua.StatusCode
		switch {
		case err == nil:
			undecoded = 0
			l.acks = l.acks[:0]
			if err := l.process(ctx, c, res); err != nil {
				return err
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ua.StatusBadNoSubscription), errors.Is(err, ua.StatusBadSubscriptionIDInvalid):
			if err := l.renew(ctx, c); err != nil {
				return err
			}
		case errors.Is(err, ua.StatusBadTimeout): // a server may keep silent for longer than it was asked to
			if err := l.alive(ctx, c); err != nil {
				return err
			}
		case errors.As(err, &status) && status != ua.StatusBadEncodingLimitsExceeded && status != ua.StatusBadDecodingError, errors.Is(err, errClosed), l.alive(ctx, c) != nil:
			return fmt.Errorf("wait for notifications: %w", err)
		default: // a notification that the library can't read is lost, and others may be well
			l.acks = l.acks[:0]
			l.holder.metrics.Dropped[metrics.OPCUANotDecoded].Inc()
			if undecoded++; undecoded > undecodedMax {
				return errNotDecoded
			}
		}
	}
}

// due reports whether it is time to look up the mappings again.
func (l *link) due() bool {
	every := l.endpoint.Rescan
	if every < 0 {
		return false
	}
	if len(l.failures)+l.gone > 0 {
		every = min(every, failedRescan)
	}
	return time.Since(l.scanned) >= every
}

// alive asks a server whether it is there.
func (l *link) alive(ctx context.Context, c *client) error {
	_, err := l.read(ctx, c, []*ua.NodeID{ua.NewNumericNodeID(0, id.Server_ServerStatus_State)}, ua.AttributeIDValue)
	return err
}

// renew has new subscriptions in place of those that the server has dropped.
func (l *link) renew(ctx context.Context, c *client) error {
	var ids []uint32
	for _, s := range l.subscriptions {
		ids = append(ids, s.id)
	}
	l.forget()
	if len(ids) > 0 { // some may be left
		_, err := send[ua.DeleteSubscriptionsResponse](ctx, c, l.endpoint.RequestTimeout, &ua.DeleteSubscriptionsRequest{SubscriptionIDs: ids})
		var status ua.StatusCode
		if err != nil && !errors.As(err, &status) {
			return err
		}
	}
	return l.sync(ctx, c)
}

// process is a response with a notification, or one that only says that the server is there.
func (l *link) process(ctx context.Context, c *client, res *ua.PublishResponse) error {
	var s *subscription
	for _, one := range l.subscriptions {
		if one.id == res.SubscriptionID {
			s = one
		}
	}
	n := res.NotificationMessage
	if s == nil || n == nil || len(n.NotificationData) == 0 {
		return nil
	}
	if s.last != 0 && n.SequenceNumber != following(s.last) {
		if err := l.republish(ctx, c, s, n.SequenceNumber); err != nil {
			return err
		}
	}
	return l.notified(ctx, c, s, n)
}

// following is the sequence number behind another one.
func following(n uint32) uint32 {
	if n == math.MaxUint32 {
		return 1
	}
	return n + 1
}

// notified publishes what is in a notification, and has it acknowledged.
func (l *link) notified(ctx context.Context, c *client, s *subscription, n *ua.NotificationMessage) error {
	for _, o := range n.NotificationData {
		if o == nil {
			continue
		}
		switch data := o.Value.(type) {
		case *ua.DataChangeNotification:
			if err := l.publish(ctx, data.MonitoredItems); err != nil {
				return err
			}
		case *ua.StatusChangeNotification:
			if isBad(data.Status) { // the server has ended it
				return l.renew(ctx, c)
			}
		case nil:
			l.holder.metrics.Dropped[metrics.OPCUANotDecoded].Inc()
		}
	}
	s.last = n.SequenceNumber
	l.acks = append(l.acks, &ua.SubscriptionAcknowledgement{SubscriptionID: s.id, SequenceNumber: n.SequenceNumber})
	return nil
}

// catchUp asks for what was sent while there was no connection.
func (l *link) catchUp(ctx context.Context, c *client) error {
	for _, s := range l.subscriptions {
		err := l.republish(ctx, c, s, 0)
		if errors.Is(err, ua.StatusBadSubscriptionIDInvalid) {
			return l.renew(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// republish asks for the notifications of a subscription that are missing, up to one; 0: all that there are.
func (l *link) republish(ctx context.Context, c *client, s *subscription, until uint32) error {
	for next, i := following(s.last), 0; next != until && i < republishMax; next, i = following(next), i+1 {
		res, err := send[ua.RepublishResponse](ctx, c, l.endpoint.RequestTimeout, &ua.RepublishRequest{SubscriptionID: s.id, RetransmitSequenceNumber: next})
		switch {
		case errors.Is(err, ua.StatusBadMessageNotAvailable):
			if until == 0 {
				return nil
			}
			l.holder.metrics.Dropped[metrics.OPCUALost].Inc()
			continue
		case err != nil:
			return err
		case res.NotificationMessage == nil:
			return errResponse
		}
		if err := l.notified(ctx, c, s, res.NotificationMessage); err != nil {
			return err
		}
	}
	return nil
}
