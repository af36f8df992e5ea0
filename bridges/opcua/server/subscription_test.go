package opcuaserver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

// subscribe makes a subscription without the client library's own.
func (f *fixture) subscribe(c *opcua.Client) uint32 {
	f.t.Helper()
	return mustSend[*ua.CreateSubscriptionResponse](f, c, &ua.CreateSubscriptionRequest{
		RequestedPublishingInterval: 100, RequestedLifetimeCount: 1000, RequestedMaxKeepAliveCount: 5, PublishingEnabled: true,
	}).SubscriptionID
}

func monitored(node *ua.NodeID, handle uint32, change ...func(*ua.MonitoredItemCreateRequest)) *ua.MonitoredItemCreateRequest {
	q := &ua.MonitoredItemCreateRequest{
		ItemToMonitor:       &ua.ReadValueID{NodeID: node, AttributeID: ua.AttributeIDValue, DataEncoding: &ua.QualifiedName{}},
		MonitoringMode:      ua.MonitoringModeReporting,
		RequestedParameters: &ua.MonitoringParameters{ClientHandle: handle, QueueSize: 1, DiscardOldest: true},
	}
	for _, c := range change {
		c(q)
	}
	return q
}

func (f *fixture) monitor(c *opcua.Client, sub uint32, q ...*ua.MonitoredItemCreateRequest) []*ua.MonitoredItemCreateResult {
	f.t.Helper()
	return mustSend[*ua.CreateMonitoredItemsResponse](f, c, &ua.CreateMonitoredItemsRequest{SubscriptionID: sub, TimestampsToReturn: ua.TimestampsToReturnBoth, ItemsToCreate: q}).Results
}

// told asks to be told something, and returns it.
func (f *fixture) told(c *opcua.Client, acknowledge ...*ua.SubscriptionAcknowledgement) *ua.PublishResponse {
	f.t.Helper()
	return mustSend[*ua.PublishResponse](f, c, &ua.PublishRequest{SubscriptionAcknowledgements: acknowledge})
}

// values are the values that a message has, as handle=value.
func values(m *ua.NotificationMessage) (all []string) {
	for _, d := range m.NotificationData {
		for _, i := range d.Value.(*ua.DataChangeNotification).MonitoredItems {
			text := fmt.Sprint(i.ClientHandle, "=")
			if i.Value.Value != nil && i.Value.EncodingMask&ua.DataValueValue != 0 {
				text += fmt.Sprint(i.Value.Value.Value())
			}
			if i.Value.Status != ua.StatusOK {
				text += fmt.Sprintf(" %#x", uint32(i.Value.Status))
			}
			all = append(all, text)
		}
	}
	return all
}

// awaitTold waits until these values were told, whatever else was.
func (f *fixture) awaitTold(c *opcua.Client, want ...string) {
	f.t.Helper()
	var all []string
	for deadline := time.Now().Add(patience); ; {
		all = append(all, values(f.told(c).NotificationMessage)...)
		if !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(all, w) }) {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("was told %v, want %v", all, want)
		}
	}
}

func TestChangesAreTold(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/#"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	p.Publish("plant/b", "x", 1, brokertest.Retained)
	c := f.mustDial()
	f.await(c, topic("plant/a"), int64(1))
	f.await(c, topic("plant/b"), "x")
	sub := f.subscribe(c)
	r := f.monitor(c, sub, monitored(topic("plant/a"), 1), monitored(topic("plant/b"), 2), monitored(topic("plant/none"), 3))
	if r[0].StatusCode != ua.StatusOK || r[1].StatusCode != ua.StatusOK || r[2].StatusCode != ua.StatusBadNodeIDUnknown {
		t.Fatalf("got %v %v %v", r[0].StatusCode, r[1].StatusCode, r[2].StatusCode)
	}
	first := f.told(c)
	if got := values(first.NotificationMessage); !slices.Equal(got, []string{"1=1", "2=x"}) {
		t.Errorf("was told %v", got)
	}
	// It can be had again until it is acknowledged.
	again := &ua.RepublishRequest{SubscriptionID: sub, RetransmitSequenceNumber: first.NotificationMessage.SequenceNumber}
	if got := values(mustSend[*ua.RepublishResponse](f, c, again).NotificationMessage); !slices.Equal(got, []string{"1=1", "2=x"}) {
		t.Errorf("was told again %v", got)
	}
	p.Publish("plant/a", "2", 1)
	second := f.told(c, &ua.SubscriptionAcknowledgement{SubscriptionID: sub, SequenceNumber: first.NotificationMessage.SequenceNumber}, &ua.SubscriptionAcknowledgement{SubscriptionID: sub, SequenceNumber: 77}, &ua.SubscriptionAcknowledgement{SubscriptionID: 1})
	if got := values(second.NotificationMessage); !slices.Equal(got, []string{"1=2"}) {
		t.Errorf("was told %v", got)
	}
	if want := []ua.StatusCode{ua.StatusOK, ua.StatusBadSequenceNumberUnknown, ua.StatusBadSubscriptionIDInvalid}; !slices.Equal(second.Results, want) {
		t.Errorf("acknowledged: %v", second.Results)
	}
	if _, err := send[*ua.RepublishResponse](f, c, again); !errors.Is(err, ua.StatusBadMessageNotAvailable) {
		t.Errorf("what is acknowledged: %v", err)
	}
	// Without changes it says that it lives.
	if alive := f.told(c); len(alive.NotificationMessage.NotificationData) != 0 || alive.NotificationMessage.SequenceNumber != second.NotificationMessage.SequenceNumber+1 {
		t.Errorf("got %+v", alive.NotificationMessage)
	}
	// A topic that is no more, and comes back.
	p.Publish("plant/a", "", 1, brokertest.Retained)
	f.awaitTold(c, fmt.Sprintf("1= %#x", uint32(ua.StatusBadNoData)))
	p.Publish("plant/a", "3", 1)
	f.awaitTold(c, "1=3")
	// Values of the server itself.
	f.monitor(c, sub, monitored(ua.NewNumericNodeID(0, id.Server_ServiceLevel), 4), monitored(ua.NewNumericNodeID(0, id.Server_ServerStatus_CurrentTime), 5), monitored(topic("plant/b"), 6, func(q *ua.MonitoredItemCreateRequest) { q.ItemToMonitor.AttributeID = ua.AttributeIDDisplayName }))
	f.awaitTold(c, "4=255")
	var told int
	for told < 3 { // the time goes on
		for _, d := range f.told(c).NotificationMessage.NotificationData {
			for _, i := range d.Value.(*ua.DataChangeNotification).MonitoredItems {
				if i.ClientHandle == 5 {
					told++
				}
			}
		}
	}
	mustSend[*ua.DeleteSubscriptionsResponse](f, c, &ua.DeleteSubscriptionsRequest{SubscriptionIDs: []uint32{sub}})
	if _, err := send[*ua.PublishResponse](f, c, &ua.PublishRequest{}); !errors.Is(err, ua.StatusBadNoSubscription) {
		t.Errorf("without a subscription: %v", err)
	}
	if _, subscriptions, items, queued, _ := f.here.Left(); subscriptions != 0 || items != 0 || queued != 0 {
		t.Errorf("left: %d subscriptions, %d items, %d bytes", subscriptions, items, queued)
	}
}

func TestQueuesAndFilters(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/#"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "0", 1, brokertest.Retained)
	c := f.mustDial()
	f.await(c, topic("plant/a"), int64(0))
	sub := f.subscribe(c)
	filter := func(value any) func(*ua.MonitoredItemCreateRequest) {
		return func(q *ua.MonitoredItemCreateRequest) { q.RequestedParameters.Filter = ua.NewExtensionObject(value) }
	}
	queue := func(size uint32, discardOldest bool) func(*ua.MonitoredItemCreateRequest) {
		return func(q *ua.MonitoredItemCreateRequest) {
			q.RequestedParameters.QueueSize, q.RequestedParameters.DiscardOldest = size, discardOldest
		}
	}
	for want, filter := range map[ua.StatusCode]any{
		ua.StatusBadMonitoredItemFilterUnsupported: &ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatusValue, DeadbandType: 2, DeadbandValue: 1},
		ua.StatusBadMonitoredItemFilterInvalid:     &ua.DataChangeFilter{Trigger: 9},
		ua.StatusBadDeadbandFilterInvalid:          &ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatusValue, DeadbandType: 1, DeadbandValue: -1},
	} {
		q := monitored(topic("plant/a"), 1)
		q.RequestedParameters.Filter = ua.NewExtensionObject(filter)
		if got := f.monitor(c, sub, q)[0].StatusCode; got != want {
			t.Errorf("%+v: %v, want %v", filter, got, want)
		}
	}
	r := f.monitor(c, sub,
		monitored(topic("plant/a"), 1, queue(2, true)),
		monitored(topic("plant/a"), 2, queue(2, false)),
		monitored(topic("plant/a"), 3, queue(1_000_000, true)),
		monitored(topic("plant/a"), 4, queue(100, true), filter(&ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatusValue, DeadbandType: 1, DeadbandValue: 5})),
		monitored(topic("plant/a"), 5, queue(100, true), filter(&ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatus})),
		monitored(topic("plant/a"), 6, queue(100, true), filter(&ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatusValueTimestamp})),
		monitored(topic("plant/a"), 7, func(q *ua.MonitoredItemCreateRequest) { q.MonitoringMode = ua.MonitoringModeDisabled }),
		monitored(topic("plant/a"), 8, func(q *ua.MonitoredItemCreateRequest) { q.MonitoringMode = 7 }),
	)
	if r[2].RevisedQueueSize != 100 || r[7].StatusCode != ua.StatusBadMonitoringModeInvalid {
		t.Errorf("got %+v, %v", r[2], r[7].StatusCode)
	}
	// Each value reaches the items before the next one is published; the client asks only then.
	for _, v := range []string{"1", "2", "3", "3", "9"} {
		before := f.read(c, topic("plant/a")).SourceTimestamp
		p.Publish("plant/a", v, 1)
		f.eventually(func() bool { return f.read(c, topic("plant/a")).SourceTimestamp.After(before) }, func() string { return v + " isn't there" })
	}
	got := map[string][]string{}
	for range 4 {
		for _, v := range values(f.told(c).NotificationMessage) {
			got[v[:1]] = append(got[v[:1]], v[2:])
		}
	}
	for handle, want := range map[string][]string{
		"1": {"3 0x480", "9"}, "2": {"0", "9 0x480"}, "3": {"0", "1", "2", "3", "9"}, "4": {"0", "9"}, "5": {"0"}, "6": {"0", "1", "2", "3", "3", "9"}, "7": nil,
	} {
		if !slices.Equal(got[handle], want) {
			t.Errorf("item %s was told %q, want %q", handle, got[handle], want)
		}
	}
	ids := func(i ...int) (all []uint32) {
		for _, i := range i {
			all = append(all, r[i].MonitoredItemID)
		}
		return append(all, 4711)
	}
	unknown := ua.StatusBadMonitoredItemIDInvalid
	modes := func(mode ua.MonitoringMode, i ...int) []ua.StatusCode {
		return mustSend[*ua.SetMonitoringModeResponse](f, c, &ua.SetMonitoringModeRequest{SubscriptionID: sub, MonitoringMode: mode, MonitoredItemIDs: ids(i...)}).Results
	}
	if got := modes(ua.MonitoringModeReporting, 6); !slices.Equal(got, []ua.StatusCode{ua.StatusOK, unknown}) {
		t.Errorf("mode: %v", got)
	}
	f.awaitTold(c, "7=9")
	modes(ua.MonitoringModeSampling, 0)
	p.Publish("plant/a", "20", 1)
	f.awaitTold(c, "7=20")
	modes(ua.MonitoringModeReporting, 0)
	f.awaitTold(c, "1=20")
	modify := func(item uint32, size uint32) *ua.MonitoredItemModifyResult {
		return mustSend[*ua.ModifyMonitoredItemsResponse](f, c, &ua.ModifyMonitoredItemsRequest{SubscriptionID: sub, ItemsToModify: []*ua.MonitoredItemModifyRequest{{
			MonitoredItemID: item, RequestedParameters: &ua.MonitoringParameters{ClientHandle: 11, QueueSize: size, DiscardOldest: true},
		}}}).Results[0]
	}
	if got := modify(r[0].MonitoredItemID, 7); got.StatusCode != ua.StatusOK || got.RevisedQueueSize != 7 {
		t.Errorf("modify: %+v", got)
	}
	if got := modify(4711, 7); got.StatusCode != unknown {
		t.Errorf("modify: %+v", got)
	}
	p.Publish("plant/a", "21", 1)
	f.awaitTold(c, "11=21")
	if got := mustSend[*ua.DeleteMonitoredItemsResponse](f, c, &ua.DeleteMonitoredItemsRequest{SubscriptionID: sub, MonitoredItemIDs: ids(0, 1, 2, 3, 4, 5, 6)}).Results; got[0] != ua.StatusOK || got[7] != unknown {
		t.Errorf("delete: %v", got)
	}
	m := mustSend[*ua.ModifySubscriptionResponse](f, c, &ua.ModifySubscriptionRequest{SubscriptionID: sub, RequestedPublishingInterval: 1, RequestedMaxKeepAliveCount: 1 << 30, RequestedLifetimeCount: 1})
	if m.RevisedPublishingInterval != 100 || m.RevisedMaxKeepAliveCount != 6000 || m.RevisedLifetimeCount != 18000 {
		t.Errorf("revised to %v, %d, %d", m.RevisedPublishingInterval, m.RevisedMaxKeepAliveCount, m.RevisedLifetimeCount)
	}
	if got := mustSend[*ua.SetPublishingModeResponse](f, c, &ua.SetPublishingModeRequest{SubscriptionIDs: []uint32{sub, 1}}).Results; !slices.Equal(got, []ua.StatusCode{ua.StatusOK, ua.StatusBadSubscriptionIDInvalid}) {
		t.Errorf("publishing mode: %v", got)
	}
	for _, q := range []ua.Request{
		&ua.ModifySubscriptionRequest{SubscriptionID: 1}, &ua.CreateMonitoredItemsRequest{SubscriptionID: 1, ItemsToCreate: []*ua.MonitoredItemCreateRequest{monitored(topic("plant/a"), 1)}},
		&ua.ModifyMonitoredItemsRequest{SubscriptionID: 1, ItemsToModify: []*ua.MonitoredItemModifyRequest{{RequestedParameters: &ua.MonitoringParameters{}}}},
		&ua.SetMonitoringModeRequest{SubscriptionID: 1, MonitoredItemIDs: []uint32{1}}, &ua.DeleteMonitoredItemsRequest{SubscriptionID: 1, MonitoredItemIDs: []uint32{1}},
		&ua.RepublishRequest{SubscriptionID: 1},
	} {
		if _, err := send[ua.Response](f, c, q); !errors.Is(err, ua.StatusBadSubscriptionIDInvalid) {
			t.Errorf("%T of no subscription: %v", q, err)
		}
	}
}

// What is kept for Republish is bounded for all subscriptions together.
func TestRepublishIsBounded(t *testing.T) {
	t.Parallel()
	o := open("plant/#")
	o.ValuesBytes, o.MemoryBytes = 1<<20, 4<<20 // an eighth of it
	f := mustServe(t, o)
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained) // the server may subscribe later
	c := f.mustDial()
	f.await(c, topic("plant/a"), int64(1))
	sub := f.subscribe(c)
	f.monitor(c, sub, monitored(topic("plant/a"), 1))
	var numbers []uint32
	for i := range 15 {
		p.Publish("plant/a", fmt.Sprint(i)+strings.Repeat("x", 60_000), 1)
		for {
			m := f.told(c).NotificationMessage
			if got := values(m); len(got) == 1 && strings.HasPrefix(got[0], fmt.Sprintf("1=%dx", i)) {
				numbers = append(numbers, m.SequenceNumber)
				break
			}
		}
	}
	if n := f.here.Resent(); n < 60_000 || n > 512<<10 {
		t.Errorf("%d bytes are kept", n)
	}
	if _, err := send[*ua.RepublishResponse](f, c, &ua.RepublishRequest{SubscriptionID: sub, RetransmitSequenceNumber: numbers[0]}); !errors.Is(err, ua.StatusBadMessageNotAvailable) {
		t.Errorf("the oldest: %v", err)
	}
	mustSend[*ua.RepublishResponse](f, c, &ua.RepublishRequest{SubscriptionID: sub, RetransmitSequenceNumber: numbers[14]})
	mustSend[*ua.DeleteSubscriptionsResponse](f, c, &ua.DeleteSubscriptionsRequest{SubscriptionIDs: []uint32{sub}})
	if n := f.here.Resent(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}

// A user loses the right to read, and gets it back.
func TestRightsOfItems(t *testing.T) {
	t.Parallel()
	o := open("plant/#")
	o.Anonymous, o.PlainPassword = false, true
	var denied atomic.Bool
	f := mustServe(t, o, rules{passwords: map[string]string{"worker": "secret"}, allowed: func(string) bool { return !denied.Load() }}.options)
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	c := f.mustDial(opcua.AuthUsername("worker", "secret"), opcua.AuthPolicyID("username"))
	f.await(c, topic("plant/a"), int64(1))
	sub := f.subscribe(c)
	f.monitor(c, sub, monitored(topic("plant/a"), 1))
	f.awaitTold(c, "1=1")
	denied.Store(true)
	f.broker.Broker.DropDecisions()
	f.here.Recheck()
	f.awaitTold(c, fmt.Sprintf("1= %#x", uint32(ua.StatusBadUserAccessDenied)))
	denied.Store(false)
	f.broker.Broker.DropDecisions()
	f.here.Recheck()
	f.awaitTold(c, "1=1")
}

func TestBounds(t *testing.T) {
	t.Parallel()
	o := open("plant/#")
	o.Topics, o.ValueBytes, o.Sessions, o.Subscriptions, o.Items, o.Connections = 3, 100, 2, 1, 2, 4
	f := mustServe(t, o)
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	for i := range 5 {
		p.Publish(fmt.Sprint("plant/", i), "1", 1, brokertest.Retained)
	}
	drops := &f.set.OPCUAServer.Dropped
	f.eventually(func() bool { return drops[metrics.OPCUAServerTopics].Get() == 2 }, func() string { return "no topic was dropped" })
	c := f.mustDial()
	f.await(c, topic("plant/2"), int64(1))
	p.Publish("plant/2", string(make([]byte, 101)), 1)
	f.eventually(func() bool { return f.read(c, topic("plant/2")).Status == ua.StatusBadEncodingLimitsExceeded }, func() string { return "the large value is shown" })
	if drops[metrics.OPCUAServerTooLarge].Get() != 1 {
		t.Error("it wasn't counted")
	}
	p.Publish("plant"+string(slices.Repeat([]byte("/"), 40)), "1", 1)
	f.eventually(func() bool { return drops[metrics.OPCUAServerTopic].Get() == 1 }, func() string { return "a topic with many levels is shown" })

	sub := f.subscribe(c)
	if _, err := send[*ua.CreateSubscriptionResponse](f, c, &ua.CreateSubscriptionRequest{}); !errors.Is(err, ua.StatusBadTooManySubscriptions) {
		t.Errorf("a second subscription: %v", err)
	}
	r := f.monitor(c, sub, monitored(topic("plant/0"), 1), monitored(topic("plant/0"), 2), monitored(topic("plant/0"), 3))
	if r[2].StatusCode != ua.StatusBadTooManyMonitoredItems {
		t.Errorf("a third item: %v", r[2].StatusCode)
	}
	second := f.mustDial()
	if _, err := f.dial(); !errors.Is(err, ua.StatusBadTooManySessions) {
		t.Errorf("a third session: %v", err)
	}
	// More connections push out those without a session, and none with one.
	for range 8 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, _ = opcua.GetEndpoints(ctx, f.url)
		cancel()
		idle(t, f.url)
	}
	f.awaitRefused(metrics.OPCUAServerConnections)
	f.awaitRefused(metrics.OPCUAServerSessions)
	f.awaitRefused(metrics.OPCUAServerSubscriptions)
	f.awaitRefused(metrics.OPCUAServerItems)
	f.await(c, topic("plant/0"), int64(1))
	f.await(second, topic("plant/0"), int64(1))
	if err := c.Close(context.Background()); err != nil {
		t.Log(err)
	}
	f.eventually(func() bool {
		sessions, subscriptions, items, queued, _ := f.here.Left()
		return sessions == 1 && subscriptions == 0 && items == 0 && queued == 0
	}, func() string { return "the session has left something" })
}

// A cut connection leaves the session, which another one takes over.
func TestASessionSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/#"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	c := f.mustDial()
	f.await(c, topic("plant/a"), int64(1))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	session, err := c.DetachSession(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SecureChannel().Close()
	next, err := opcua.NewClient(f.url, opcua.SecurityMode(ua.MessageSecurityModeNone), opcua.AutoReconnect(false), opcua.RequestTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Dial(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.Close(context.Background()) })
	if err := next.ActivateSession(ctx, session); err != nil {
		t.Fatal(err)
	}
	f.await(next, topic("plant/a"), int64(1))
}

// A session that is activated again by its connection is told what it had asked for before.
func TestRequestsSurviveAnotherActivation(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/#"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	c := f.mustDial()
	f.await(c, topic("plant/a"), int64(1))
	sub := mustSend[*ua.CreateSubscriptionResponse](f, c, &ua.CreateSubscriptionRequest{
		RequestedPublishingInterval: 100, RequestedLifetimeCount: 10000, RequestedMaxKeepAliveCount: 3000, PublishingEnabled: true,
	}).SubscriptionID
	f.monitor(c, sub, monitored(topic("plant/a"), 1))
	f.awaitTold(c, "1=1")

	told := make(chan []string, 21)
	refused := make(chan error, 21)
	for range 21 { // one more than may wait: so it is known when they do
		go func() {
			r, err := send[*ua.PublishResponse](f, c, &ua.PublishRequest{})
			if err != nil {
				refused <- err
				return
			}
			told <- values(r.NotificationMessage)
		}()
	}
	if err := <-refused; !errors.Is(err, ua.StatusBadTooManyPublishRequests) {
		t.Fatal(err)
	}
	mustSend[*ua.ActivateSessionResponse](f, c, &ua.ActivateSessionRequest{
		ClientSignature: &ua.SignatureData{}, UserTokenSignature: &ua.SignatureData{}, UserIdentityToken: ua.NewExtensionObject(&ua.AnonymousIdentityToken{PolicyID: "anonymous"}),
	})
	p.Publish("plant/a", "2", 1)
	select {
	case got := <-told:
		if !slices.Equal(got, []string{"1=2"}) {
			t.Errorf("was told %v, want 1=2", got)
		}
	case err := <-refused:
		t.Error(err)
	case <-time.After(patience):
		t.Error("was told nothing")
	}
}

// Changes of thousands of variables come in messages of a bounded size.
func TestManyItems(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/#"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	const many = 3000
	for i := range many {
		p.Publish(fmt.Sprint("plant/", i), "0", 1, brokertest.Retained)
	}
	c := f.mustDial()
	f.await(c, topic(fmt.Sprint("plant/", many-1)), int64(0))
	sub := f.subscribe(c)
	for first := 0; first < many; first += 1000 {
		var q []*ua.MonitoredItemCreateRequest
		for i := first; i < first+1000; i++ {
			q = append(q, monitored(topic(fmt.Sprint("plant/", i)), uint32(i)))
		}
		f.monitor(c, sub, q...)
	}
	for round := range 2 {
		if round > 0 {
			for i := range many {
				p.Publish(fmt.Sprint("plant/", i), fmt.Sprint(round), 1)
			}
		}
		seen := map[string]bool{}
		for len(seen) < many {
			r := f.told(c)
			got := values(r.NotificationMessage)
			if len(got) > 1000 {
				t.Fatalf("%d values at once", len(got))
			}
			for _, v := range got {
				seen[v] = true
			}
		}
	}
	if _, _, _, queued, _ := f.here.Left(); queued != 0 {
		t.Errorf("%d bytes are queued", queued)
	}
}
