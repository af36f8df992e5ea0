package opcuaserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/rpc"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"loopmq"
	"loopmq/bridges/opcua/wire"
	"loopmq/codec"
)

func TestPayloadsAsValues(t *testing.T) {
	for payload, want := range map[string]any{
		"1": int64(1), "-7": int64(-7), "9223372036854775807": int64(math.MaxInt64), "9223372036854775808": 9223372036854775808.0, "1.0": 1.0, "-0.5e3": -500.0,
		"1e999": "1e999", "01": "01", "1 ": int64(1), " 1": " 1", "-": "-", "true": true, "false": false, "TRUE": "TRUE", `"x\u00e9"`: "xé", `"x`: `"x`, "null": "null",
		"": "", `{"a":1}`: `{"a":1}`, "[1]": "[1]", "on": "on", "a\x00b": []byte("a\x00b"), "\xff\xfe": []byte("\xff\xfe"), "\"\xff\"": []byte("\"\xff\""),
	} {
		if got := variantOf([]byte(payload)).Value(); !reflect.DeepEqual(got, want) {
			t.Errorf("%q is %#v, want %#v", payload, got, want)
		}
	}
}

func TestValuesAsPayloads(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  string
		text  bool
	}{
		{true, "true", true},
		{int8(-1), "-1", true},
		{int16(-2), "-2", true},
		{int32(-3), "-3", true},
		{int64(math.MinInt64), "-9223372036854775808", true},
		{uint8(1), "1", true},
		{uint16(2), "2", true},
		{uint32(3), "3", true},
		{uint64(math.MaxUint64), "18446744073709551615", true},
		{float32(0.1), "0.1", true},
		{0.1, "0.1", true},
		{"é", "é", true},
		{[]byte{0xff}, "\xff", false},
	} {
		got, text, ok := payloadOf(ua.MustVariant(tt.value))
		if string(got) != tt.want || text != tt.text || !ok {
			t.Errorf("%T %v: %q %v %v", tt.value, tt.value, got, text, ok)
		}
	}
	for _, v := range []any{math.NaN(), math.Inf(1), float32(math.Inf(-1)), []string{"a"}, time.Now(), ua.ByteArray{1}, &ua.LocalizedText{}} {
		if got, _, ok := payloadOf(ua.MustVariant(v)); ok {
			t.Errorf("%v became %q", v, got)
		}
	}
}

func TestTable(t *testing.T) {
	table := newTable(3, 1<<20, 10)
	now := time.Unix(1, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i, topic := range []string{"a", "b", "a", "c", "d"} {
		if want := map[string]dropped{"d": droppedTopics}[topic]; table.set(topic, []byte{byte(i)}, false, now) != want {
			t.Errorf("%s: not %d", topic, want)
		}
	}
	told := func(c Changed) (all []string) {
		for _, v := range c.Values {
			all = append(all, fmt.Sprintf("%s=%x %v %v", v.Topic, v.Payload, v.Removed, v.TooLarge))
		}
		return all
	}
	c := table.changes(ctx, 0)
	if got := fmt.Sprint(told(c)); got != "[b=01 false false a=02 false false c=03 false false]" {
		t.Errorf("got %s", got)
	}
	if table.set("a", make([]byte, 11), false, now) != droppedTooLarge || table.set("b", nil, true, now) != droppedNone || table.set("x", nil, true, now) != droppedNone {
		t.Error("wrong reasons")
	}
	next := table.changes(ctx, c.Cursor)
	if got := fmt.Sprint(told(next)); got != "[a= false true b= true false]" {
		t.Errorf("got %s", got)
	}
	if last := table.changes(ctx, next.Cursor); len(last.Values) != 0 || table.topics() != 2 || last.Cursor != next.Cursor {
		t.Errorf("got %+v, %d topics", last, table.topics())
	}
	if table.has("b", nil) || table.has("a", nil) || !table.has("c", []byte{3}) {
		t.Error("it has what it doesn't have")
	}
	if again := table.changes(ctx, 0); len(again.Values) != 2 {
		t.Errorf("from the start: %v", told(again))
	}
	// A topic that comes back before anybody saw it go.
	table.set("c", nil, true, now)
	table.set("c", []byte("x"), false, now)
	if got := fmt.Sprint(told(table.changes(ctx, next.Cursor))); got != "[c=78 false false]" {
		t.Errorf("got %s", got)
	}
	// Bytes are bounded: a value that has no room is none.
	small := newTable(100, 2100, 1000)
	if small.set("a", make([]byte, 100), false, now) != droppedNone || small.set("a", make([]byte, 999), false, now) != droppedNone || small.set("b", make([]byte, 500), false, now) != droppedTopics {
		t.Error("wrong reasons")
	}
	if small.set("b", nil, false, now) != droppedNone || small.set("b", make([]byte, 900), false, now) != droppedTooLarge {
		t.Error("wrong reasons")
	}
	// Who waits is woken.
	waiting := make(chan Changed, 1)
	seq := table.mu.seq
	go func() { waiting <- table.changes(t.Context(), seq) }()
	for {
		table.set("c", []byte("y"), false, now)
		select {
		case got := <-waiting:
			if len(got.Values) != 1 {
				t.Errorf("got %v", told(got))
			}
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestRefusals(t *testing.T) {
	for err, want := range map[error]Refusal{
		&loopmq.RateError{}: refusalRate, loopmq.ErrTooLarge: refusalTooLarge, loopmq.ErrTopicName: refusalInvalid, errors.New("x"): refusalUnavailable,
		codec.NewError(codec.BadUserNameOrPassword, ""): refusalCredentials, codec.NewError(codec.NotAuthorized, ""): refusalNotAuthorized,
		codec.NewError(codec.PacketTooLarge, ""): refusalTooLarge, codec.NewError(codec.TopicNameInvalid, ""): refusalInvalid,
		codec.NewError(codec.ConnectionRateExceeded, ""): refusalRate, codec.NewError(codec.ServerBusy, ""): refusalUnavailable,
	} {
		if got := refusalOf(err); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
	seen := map[ua.StatusCode]bool{}
	for r := refusalNone; r <= refusalUnavailable; r++ {
		seen[r.status(ua.StatusBadUserAccessDenied)] = true
	}
	if len(seen) != 7 {
		t.Errorf("%d statuses", len(seen))
	}
}

// alone returns a child whose parent knows nobody and nothing.
func alone(t testing.TB, change ...func(*Options)) *server {
	t.Helper()
	mine, its := net.Pipe()
	r := rpc.NewServer()
	if err := r.RegisterName("Link", nobody{}); err != nil {
		t.Fatal(err)
	}
	go r.ServeConn(mine)
	up := rpc.NewClient(its)
	t.Cleanup(func() { _ = up.Close() })
	o := Options{Filters: []string{"plant/a"}, None: true, Anonymous: true}
	for _, c := range change {
		c(&o)
	}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	setup, err := o.setup(true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newServer(*setup, up)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// nobody is a parent that lets everybody in, and allows all but topics of the level "secret".
type nobody struct{}

func (nobody) Open(q *Opening, r *Opened) error {
	r.Handle, r.Username = 1, q.Username
	return nil
}
func (nobody) Close(uint64, *struct{}) error        { return nil }
func (nobody) Publish(_ *Writing, _ *Refusal) error { return nil }
func (nobody) Authorize(q *Asking, r *Allowed) error {
	r.Allowed = make([]bool, len(q.Topics))
	for i := range r.Allowed {
		r.Allowed[i] = !strings.HasPrefix(q.Topics[i], "secret/")
	}
	return nil
}

// What has waited too long ends: sessions without a user, silent ones, subscriptions that nobody asks for.
func TestWhatIsSilentEnds(t *testing.T) {
	s := alone(t)
	a, b := net.Pipe()
	t.Cleanup(func() { _ = a.Close() })
	c := &channel{s: s, conn: b, out: make(chan response, 100), closed: make(chan struct{}), policy: ua.SecurityPolicyURINone}
	if !s.admit(c) {
		t.Fatal("not admitted")
	}
	open := func(activate bool) *session {
		r, err := s.createSession(c, &ua.CreateSessionRequest{RequestHeader: &ua.RequestHeader{}, ClientDescription: &ua.ApplicationDescription{}, SessionName: strings.Repeat("x", 300), RequestedSessionTimeout: math.NaN()})
		if err != nil {
			t.Fatal(err)
		}
		token := r.(*ua.CreateSessionResponse).AuthenticationToken
		if activate {
			if _, err := s.activateSession(c, &ua.ActivateSessionRequest{RequestHeader: &ua.RequestHeader{AuthenticationToken: token}, UserIdentityToken: ua.NewExtensionObject(nil)}); err != nil {
				t.Fatal(err)
			}
		}
		return s.mu.sessions[token.String()]
	}
	ss, unknown := open(true), open(false)
	if _, err := s.createSubscription(ss, &ua.CreateSubscriptionRequest{RequestHeader: &ua.RequestHeader{}, RequestedLifetimeCount: 3, RequestedMaxKeepAliveCount: 1, PublishingEnabled: true}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.tick(now.Add(activationTimeout + time.Second))
	if !unknown.over || ss.over {
		t.Errorf("over: %v %v", unknown.over, ss.over)
	}
	if _, err := s.publish(ss, 7, &ua.PublishRequest{RequestHeader: &ua.RequestHeader{}}); err != nil {
		t.Fatal(err)
	}
	if r := (<-c.out).body.(*ua.PublishResponse); r.SubscriptionID != s.mu.lastSubscription || len(r.NotificationMessage.NotificationData) != 0 {
		t.Errorf("got %+v", r)
	}
	for i := range 2 * publishesMax { // they wait, the oldest are refused
		if _, err := s.publish(ss, uint32(i), &ua.PublishRequest{RequestHeader: &ua.RequestHeader{}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(ss.publishes) != publishesMax || len(c.out) != publishesMax {
		t.Errorf("%d wait, %d were answered", len(ss.publishes), len(c.out))
	}
	ss.publishes = nil
	for i := range 10 {
		s.tick(now.Add(activationTimeout + time.Duration(i+2)*time.Second))
	}
	if len(ss.subscriptions) != 0 {
		t.Error("the subscription lives")
	}
	s.tick(now.Add(ss.timeout + time.Second))
	if !ss.over || len(s.mu.sessions) != 0 || c.sessions != 0 {
		t.Error("the session lives")
	}
	s.tick(now.Add(ss.timeout + channelIdle + 2*time.Second))
	select {
	case <-c.closed:
	default:
		t.Error("the connection lives")
	}
	if s.trySendTo(c) {
		t.Error("it takes responses")
	}
	if lines := s.relay.take(); len(lines) == 0 {
		t.Error("the log is empty")
	}
	for range eventsMax + 5 {
		s.log.Info("x", "a", 1)
	}
	if lines := s.relay.take(); len(lines) != eventsMax+1 || lines[eventsMax].Attrs[1] != "5" {
		t.Errorf("%d lines", len(lines))
	}
	if slog.New(s.relay).With("a", 1).WithGroup("b") == nil {
		t.Error("no logger")
	}
}

func (s *server) trySendTo(c *channel) bool { return c.trySend(response{}) }

// A connection without room gets its message later, the same one.
func TestAMessageWaitsForRoom(t *testing.T) {
	s := alone(t)
	_, b := net.Pipe()
	c := &channel{s: s, conn: b, out: make(chan response, 1), closed: make(chan struct{}), policy: ua.SecurityPolicyURINone}
	ss := &session{channel: c, activated: true, subscriptions: map[uint32]*subscription{}, rights: map[question]right{{"plant/a", false}: {true, time.Now().Add(time.Hour)}}}
	r, err := s.createSubscription(ss, &ua.CreateSubscriptionRequest{RequestHeader: &ua.RequestHeader{}, PublishingEnabled: true})
	if err != nil {
		t.Fatal(err)
	}
	sub := ss.subscriptions[r.(*ua.CreateSubscriptionResponse).SubscriptionID]
	s.apply([]Value{{Topic: "plant/a", Payload: []byte("1")}})
	q := &ua.MonitoredItemCreateRequest{
		ItemToMonitor:  &ua.ReadValueID{NodeID: ua.NewStringNodeID(nsTopics, "plant/a"), AttributeID: ua.AttributeIDValue},
		MonitoringMode: ua.MonitoringModeReporting, RequestedParameters: &ua.MonitoringParameters{},
	}
	if got := s.createItemLocked(sub, q, ua.TimestampsToReturnBoth); got.StatusCode != ua.StatusOK {
		t.Fatal(got.StatusCode)
	}
	c.out <- response{}
	for i := range uint32(2) {
		if _, err := s.publish(ss, i, &ua.PublishRequest{RequestHeader: &ua.RequestHeader{}}); err != nil {
			t.Fatal(err)
		}
	}
	s.cycleLocked(sub, sub.due)
	if sub.pending == nil || !sub.late || len(ss.publishes) != 2 {
		t.Fatalf("pending %v", sub.pending)
	}
	first := sub.pending
	<-c.out
	s.cycleLocked(sub, sub.due)
	if got := (<-c.out).body.(*ua.PublishResponse); got.NotificationMessage != first || first.SequenceNumber != 1 {
		t.Errorf("got %+v", got.NotificationMessage)
	}
	// What waits for Republish is bounded.
	for range 3 * resendMax {
		s.rememberLocked(sub, &ua.NotificationMessage{}, 1)
	}
	if len(sub.resend) > resendMax+1 {
		t.Errorf("%d wait", len(sub.resend))
	}
	for range 10 {
		s.rememberLocked(sub, &ua.NotificationMessage{}, resendBytes/2)
	}
	if len(sub.resend) > 3 {
		t.Errorf("%d wait", len(sub.resend))
	}
	// A topic that is gone stays while somebody watches it, and no longer.
	s.apply([]Value{{Topic: "x/y/z", Payload: []byte("1")}, {Topic: "plant/a", Removed: true}})
	if s.mu.space.nodes[name{ns: nsTopics, text: "plant/a"}] == nil {
		t.Error("what is watched is gone")
	}
	s.removeLocked(sub)
	if s.mu.space.nodes[name{ns: nsTopics, text: "plant/a"}] != nil || s.mu.space.nodes[name{ns: nsLevels, text: "plant"}] != nil {
		t.Error("what nobody watches is there")
	}
	s.apply([]Value{{Topic: "x/y/z", Removed: true}})
	if s.mu.space.nodes[name{ns: nsLevels, text: "x"}] != nil {
		t.Error("the folders are there")
	}
}

func TestQueuesWithoutRoom(t *testing.T) {
	s := alone(t)
	s.setup.MemoryBytes = 4000
	sub := &subscription{session: &session{}, items: map[uint32]*item{}}
	it := &item{sub: sub, size: 100, discardOldest: true, mode: ua.MonitoringModeReporting, node: &node{}, what: &ua.ReadValueID{}, trigger: ua.DataChangeTriggerStatusValue}
	for i := range 100 {
		s.offerLocked(it, goodValue(int64(i)))
	}
	if s.mu.queued > 1100 || len(it.queue) == 0 || it.queue[len(it.queue)-1].Value.Value() != int64(99) {
		t.Errorf("%d bytes wait, %d values", s.mu.queued, len(it.queue))
	}
	s.dropLocked(it)
	if s.mu.queued != 0 || len(sub.ready) != 0 {
		t.Errorf("%d bytes are left", s.mu.queued)
	}
}

func TestSameValue(t *testing.T) {
	v := ua.MustVariant
	for _, tt := range []struct {
		a, b *ua.Variant
		want bool
	}{
		{nil, nil, true},
		{v("a"), nil, false},
		{v("a"), v("a"), true},
		{v("a"), v("b"), false},
		{v(1.0), v(int64(1)), false},
		{v([]byte("a")), v([]byte("a")), true},
		{v([]byte("a")), v([]byte("b")), false},
		{v(true), v(true), true},
		{v(&ua.LocalizedText{}), v(&ua.LocalizedText{}), false},
	} {
		if got := sameValue(tt.a, tt.b); got != tt.want {
			t.Errorf("%v and %v: %v", tt.a, tt.b, got)
		}
	}
}

// FuzzRequest decodes requests, and has a server with a user in a session answer those it can.
func FuzzRequest(f *testing.F) {
	add := func(q ua.Request, number uint16) {
		q.SetHeader(&ua.RequestHeader{AuthenticationToken: ua.NewTwoByteNodeID(0), AdditionalHeader: ua.NewExtensionObject(nil)})
		b, err := ua.Encode(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append([]byte{1, 0, byte(number), byte(number >> 8)}, b...))
	}
	a := ua.NewStringNodeID(nsTopics, "plant/a")
	read := &ua.ReadValueID{NodeID: a, AttributeID: 13, DataEncoding: &ua.QualifiedName{}}
	parameters := &ua.MonitoringParameters{QueueSize: 2, Filter: ua.NewExtensionObject(&ua.DataChangeFilter{Trigger: 1, DeadbandType: 1, DeadbandValue: 1})}
	add(&ua.GetEndpointsRequest{EndpointURL: "opc.tcp://x"}, id.GetEndpointsRequest_Encoding_DefaultBinary)
	add(&ua.FindServersRequest{ServerURIs: []string{"x"}}, id.FindServersRequest_Encoding_DefaultBinary)
	add(&ua.CreateSessionRequest{ClientDescription: &ua.ApplicationDescription{ApplicationName: &ua.LocalizedText{}}}, id.CreateSessionRequest_Encoding_DefaultBinary)
	add(&ua.ActivateSessionRequest{ClientSignature: &ua.SignatureData{}, UserIdentityToken: ua.NewExtensionObject(&ua.UserNameIdentityToken{UserName: "x"}), UserTokenSignature: &ua.SignatureData{}}, id.ActivateSessionRequest_Encoding_DefaultBinary)
	add(&ua.CloseSessionRequest{}, id.CloseSessionRequest_Encoding_DefaultBinary)
	add(&ua.ReadRequest{NodesToRead: []*ua.ReadValueID{read}}, id.ReadRequest_Encoding_DefaultBinary)
	add(&ua.WriteRequest{NodesToWrite: []*ua.WriteValue{{NodeID: a, AttributeID: 13, Value: &ua.DataValue{EncodingMask: 1, Value: ua.MustVariant([]string{"x"})}}}}, id.WriteRequest_Encoding_DefaultBinary)
	add(&ua.BrowseRequest{View: &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)}, NodesToBrowse: []*ua.BrowseDescription{{NodeID: ua.NewTwoByteNodeID(85), ReferenceTypeID: ua.NewTwoByteNodeID(33), IncludeSubtypes: true, ResultMask: 63}}}, id.BrowseRequest_Encoding_DefaultBinary)
	add(&ua.BrowseNextRequest{ContinuationPoints: [][]byte{{1}}}, id.BrowseNextRequest_Encoding_DefaultBinary)
	add(&ua.TranslateBrowsePathsToNodeIDsRequest{BrowsePaths: []*ua.BrowsePath{{StartingNode: ua.NewTwoByteNodeID(84), RelativePath: &ua.RelativePath{Elements: []*ua.RelativePathElement{{ReferenceTypeID: ua.NewTwoByteNodeID(33), IncludeSubtypes: true, TargetName: &ua.QualifiedName{Name: "Objects"}}}}}}}, id.TranslateBrowsePathsToNodeIDsRequest_Encoding_DefaultBinary)
	add(&ua.CreateSubscriptionRequest{RequestedPublishingInterval: 100}, id.CreateSubscriptionRequest_Encoding_DefaultBinary)
	add(&ua.ModifySubscriptionRequest{SubscriptionID: 1}, id.ModifySubscriptionRequest_Encoding_DefaultBinary)
	add(&ua.SetPublishingModeRequest{SubscriptionIDs: []uint32{1}}, id.SetPublishingModeRequest_Encoding_DefaultBinary)
	add(&ua.DeleteSubscriptionsRequest{SubscriptionIDs: []uint32{1}}, id.DeleteSubscriptionsRequest_Encoding_DefaultBinary)
	add(&ua.CreateMonitoredItemsRequest{SubscriptionID: 1, ItemsToCreate: []*ua.MonitoredItemCreateRequest{{ItemToMonitor: read, MonitoringMode: 2, RequestedParameters: parameters}}}, id.CreateMonitoredItemsRequest_Encoding_DefaultBinary)
	add(&ua.ModifyMonitoredItemsRequest{SubscriptionID: 1, ItemsToModify: []*ua.MonitoredItemModifyRequest{{MonitoredItemID: 1, RequestedParameters: parameters}}}, id.ModifyMonitoredItemsRequest_Encoding_DefaultBinary)
	add(&ua.SetMonitoringModeRequest{SubscriptionID: 1, MonitoringMode: 1, MonitoredItemIDs: []uint32{1}}, id.SetMonitoringModeRequest_Encoding_DefaultBinary)
	add(&ua.DeleteMonitoredItemsRequest{SubscriptionID: 1, MonitoredItemIDs: []uint32{1}}, id.DeleteMonitoredItemsRequest_Encoding_DefaultBinary)
	add(&ua.PublishRequest{SubscriptionAcknowledgements: []*ua.SubscriptionAcknowledgement{{SubscriptionID: 1, SequenceNumber: 1}}}, id.PublishRequest_Encoding_DefaultBinary)
	add(&ua.RepublishRequest{SubscriptionID: 1, RetransmitSequenceNumber: 1}, id.RepublishRequest_Encoding_DefaultBinary)
	add(&ua.CallRequest{}, id.CallRequest_Encoding_DefaultBinary)
	s := alone(f)
	s.apply([]Value{{Topic: "plant/a", Payload: []byte("1")}, {Topic: "plant/b/c", Payload: []byte("x")}})
	conn, _ := net.Pipe()
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := decodeRequest(b, 1<<16)
		if err != nil {
			return
		}
		c := &channel{s: s, conn: conn, out: make(chan response, 4), closed: make(chan struct{}), policy: ua.SecurityPolicyURINone}
		ss := &session{id: randomID(), token: randomID(), channel: c, activated: true, handle: 1, subscriptions: map[uint32]*subscription{}, rights: map[question]right{}}
		s.mu.lastSubscription, s.mu.lastItem = 0, 0
		if _, err := s.createSubscription(ss, &ua.CreateSubscriptionRequest{RequestHeader: &ua.RequestHeader{}, PublishingEnabled: true}); err != nil {
			t.Fatal(err)
		}
		s.createItemLocked(ss.subscriptions[1], &ua.MonitoredItemCreateRequest{ItemToMonitor: &ua.ReadValueID{NodeID: a, AttributeID: 13}, MonitoringMode: 2, RequestedParameters: &ua.MonitoringParameters{}}, 0)
		s.mu.sessions[ss.token.String()] = ss
		if _, own := q.(*ua.ActivateSessionRequest); !own {
			q.Header().AuthenticationToken = ss.token
		}
		r, err := s.answer(c, 1, q)
		for _, line := range s.relay.take() {
			if line.Name == "opcua_server_panic" {
				t.Fatalf("%T: %v", q, line.Attrs)
			}
		}
		if err == nil && r != nil {
			if _, err := encodeResponse(r); err != nil {
				t.Fatalf("%T: %v", r, err)
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, ss := range s.mu.sessions {
			s.endLocked(ss)
		}
		if s.mu.items != 0 || s.mu.subscriptions != 0 || s.mu.queued != 0 {
			t.Fatalf("left: %d items, %d subscriptions, %d bytes", s.mu.items, s.mu.subscriptions, s.mu.queued)
		}
	})
}

// FuzzConnection feeds a connection bytes, after a beginning that a client makes.
func FuzzConnection(f *testing.F) {
	hello := "HELF\x20\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"
	f.Add([]byte(hello))
	f.Add([]byte(hello + "OPNF\x84\x00\x00\x00\x00\x00\x00\x00\x2f\x00\x00\x00" + ua.SecurityPolicyURINone + "\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\xbe\x01" +
		"\x00\x00" + strings.Repeat("\x00", 8) + "\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\xff\xff\xff\xff\x60\xea\x00\x00"))
	s := alone(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		mine, its := net.Pipe()
		c := &channel{s: s, conn: its, out: make(chan response, responsesWaiting), closed: make(chan struct{})}
		if !s.admit(c) {
			t.Fatal("not admitted")
		}
		go func() {
			_, _ = mine.Write(b)
			_ = mine.Close()
		}()
		go func() {
			for some := make([]byte, 4096); ; {
				if _, err := mine.Read(some); err != nil {
					return
				}
			}
		}()
		s.serve(c)
		for _, line := range s.relay.take() {
			if line.Name == "opcua_server_panic" {
				t.Fatal(line.Attrs)
			}
		}
		if len(s.mu.channels) != 0 {
			t.Fatal("the connection is there")
		}
	})
}

// FuzzTopic has topics as nodes: each is found by its id and by its path, both as clients send them, and is gone without a
// trace. What its payload is as a value goes to a client and back.
func FuzzTopic(f *testing.F) {
	for _, payload := range []string{"", "1", "-0", "1.5e300", "1e999", "true", `"a\u0000b"`, `"\ud800"`, `"x`, "a\x00b", "\xff", "null", "9223372036854775808", "é"} {
		f.Add("plant/a", "plant", []byte(payload))
	}
	for _, topics := range [][2]string{{"/", "//"}, {"a//b", "a"}, {"a/", "a/(empty)"}, {"(empty)/", "/"}, {"$SYS/a", "é/|.:"}, {"\xff", "a\x00"}} {
		f.Add(topics[0], topics[1], []byte("1"))
	}
	s := alone(f)
	f.Fuzz(func(t *testing.T, a, b string, payload []byte) {
		table := newTable(10, 1<<20, 1<<16)
		for _, topic := range []string{a, b} {
			if !codec.ValidTopicName([]byte(topic)) || table.set(topic, payload, false, time.Now()) != droppedNone {
				return // the broker, or the table, refuses it
			}
		}
		before := len(s.mu.space.nodes)
		s.apply(table.changes(t.Context(), 0).Values)
		for _, topic := range []string{a, b} {
			n := s.mu.space.find(sent(t, ua.NewStringNodeID(nsTopics, topic)))
			if n == nil || s.mu.space.find(sent(t, n.id())) != n || n.name.text != topic {
				t.Fatalf("%q is %+v", topic, n)
			}
			path, looks := &ua.BrowsePath{StartingNode: s.mu.space.topics.id(), RelativePath: &ua.RelativePath{}}, s.looksLocked()
			for at := n; at != s.mu.space.topics; at = at.parent {
				path.RelativePath.Elements = append(path.RelativePath.Elements, &ua.RelativePathElement{
					ReferenceTypeID: ua.NewNumericNodeID(0, id.Organizes), TargetName: sent(t, &ua.QualifiedName{NamespaceIndex: at.browseNS, Name: at.browse}),
				})
			}
			slices.Reverse(path.RelativePath.Elements)
			// A level that is called as one without a name is has the same path.
			if got, status := s.followLocked(path, &looks); status != ua.StatusOK || got != n && !strings.Contains(a+b, emptyLevel) {
				t.Fatalf("the path of %q leads to %+v (%v)", topic, got, status)
			}
			checkValue(t, payload, n.value)
		}
		s.apply([]Value{{Topic: a, Removed: true}})
		if n := s.mu.space.find(ua.NewStringNodeID(nsTopics, b)); (n == nil) != (a == b) {
			t.Fatalf("without %q, %q is %+v", a, b, n)
		}
		s.apply([]Value{{Topic: b, Removed: true}})
		if after := len(s.mu.space.nodes); after != before && a != "plant/a" && b != "plant/a" {
			t.Fatalf("%d nodes, and then %d", before, after)
		}
	})
}

// sent is a value as it comes to the other side.
func sent[T any](t *testing.T, v *T) *T {
	t.Helper()
	b, err := ua.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := wire.Check(b, reflect.TypeFor[*T](), 1<<20); err != nil || n != len(b) {
		t.Fatalf("%+v can't be decoded: %v", v, err)
	}
	got := new(T)
	if _, err := ua.Decode(b, got); err != nil {
		t.Fatal(err)
	}
	return got
}

// checkValue checks what a payload has become, and what it becomes when a client writes it.
func checkValue(t *testing.T, payload []byte, v *ua.DataValue) {
	t.Helper()
	got := sent(t, dataValue(v, ua.TimestampsToReturnBoth))
	if !sameValue(got.Value, v.Value) || !got.SourceTimestamp.Equal(v.SourceTimestamp.Truncate(100)) {
		t.Fatalf("%q: %+v came as %+v", payload, v, got)
	}
	written, text, ok := payloadOf(got.Value)
	if !ok || text != (got.Value.Type() != ua.TypeIDByteString) || text && !utf8.Valid(written) {
		t.Fatalf("%q as %v is written as %q, text: %v", payload, v.Value.Value(), written, text)
	}
	switch x := got.Value.Value().(type) {
	case bool:
		ok = string(written) == string(payload)
	case int64, float64:
		n, isNumber := numberOf(&ua.DataValue{Value: variantOf(written)})
		want, _ := numberOf(got)
		ok = isNumber && n == want
	case string:
		ok = string(written) == x && (x == string(payload) || payload[0] == '"')
	case []byte:
		ok = bytes.Equal(written, payload)
	}
	if !ok {
		t.Fatalf("%q is %v, and written as %q", payload, got.Value.Value(), written)
	}
}
