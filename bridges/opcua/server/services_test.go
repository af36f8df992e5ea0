package opcuaserver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"loopmq"
	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/metrics"
)

// send sends a request as it is, and returns the response.
func send[R ua.Response](f *fixture, c *opcua.Client, q ua.Request) (R, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var r R
	err := c.Send(ctx, q, func(got ua.Response) error {
		var ok bool
		if r, ok = got.(R); !ok {
			return fmt.Errorf("got %T", got)
		}
		return nil
	})
	return r, err
}

func mustSend[R ua.Response](f *fixture, c *opcua.Client, q ua.Request) R {
	f.t.Helper()
	r, err := send[R](f, c, q)
	if err != nil {
		f.t.Fatalf("%T: %v", q, err)
	}
	return r
}

func (f *fixture) write(c *opcua.Client, node *ua.NodeID, v any) ua.StatusCode {
	f.t.Helper()
	return mustSend[*ua.WriteResponse](f, c, &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{{
		NodeID: node, AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(v)},
	}}}).Results[0]
}

func (f *fixture) refused(reason metrics.OPCUAServerRefusal) uint64 {
	return f.set.OPCUAServer.Refused[reason].Get()
}

func (f *fixture) awaitRefused(reason metrics.OPCUAServerRefusal) {
	f.t.Helper()
	f.eventually(func() bool { return f.refused(reason) > 0 }, func() string { return fmt.Sprintf("nothing was counted as %s", reason) })
}

// rules is an Authenticator with passwords, and an Authorizer with what users may do, as "user action topic".
type rules struct {
	passwords map[string]string
	allowed   func(what string) bool
}

func (r rules) Authenticate(_ context.Context, q *loopmq.ConnectRequest) (loopmq.Identity, *loopmq.Challenge, error) {
	if q.TLS != nil && q.Listener == opcuaserver.Listener {
		return loopmq.Identity{Username: q.TLS.VerifiedChains[0][0].Subject.CommonName}, nil, nil
	}
	if want, ok := r.passwords[q.Username]; q.Listener == opcuaserver.Listener && (!ok || want != string(q.Password)) {
		return loopmq.Identity{}, nil, codec.NewError(codec.BadUserNameOrPassword, "wrong")
	}
	return loopmq.Identity{Username: q.Username}, nil, nil
}

func (r rules) Continue(context.Context, *loopmq.ConnectRequest, any, []byte) (loopmq.Identity, *loopmq.Challenge, error) {
	return loopmq.Identity{}, nil, errors.New("there is no challenge")
}

func (r rules) Authorize(_ context.Context, who *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) bool {
	if r.allowed == nil || who.Username == "" {
		return true
	}
	action := "write"
	if a == loopmq.ActionSubscribe {
		action = "read"
	}
	return r.allowed(who.Username + " " + action + " " + topic)
}

func (r rules) options(o *loopmq.Options) { o.Authenticator, o.Authorizer = r, r }

// users are who may use a server with Basic256Sha256.
func secured(t testing.TB) (o opcuaserver.Options, client identity) {
	own, client := mustIdentity(t, "server", "urn:test:loopmq"), mustIdentity(t, "client", "urn:gopcua:client")
	o = opcuaserver.Options{Filters: []string{"plant/#"}, Basic256Sha256: true, Certificate: own.cert, Key: own.key, WriteQoS: 1}
	o.Trusted = append(o.Trusted, client.cert)
	return o, client
}

// dialSecure connects with Basic256Sha256 and a user.
func (f *fixture) dialSecure(who identity, mode ua.MessageSecurityMode, kind ua.UserTokenType, user ...opcua.Option) (*opcua.Client, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	endpoints, err := opcua.GetEndpoints(ctx, f.url)
	if err != nil {
		return nil, err
	}
	e, err := opcua.SelectEndpoint(endpoints, ua.SecurityPolicyURIBasic256Sha256, mode)
	if err != nil {
		return nil, err
	}
	return f.dial(append(append([]opcua.Option{
		opcua.SecurityPolicy(ua.SecurityPolicyURIBasic256Sha256), opcua.SecurityMode(mode), opcua.Certificate(who.cert.Raw), opcua.PrivateKey(who.key),
		opcua.ApplicationURI("urn:gopcua:client"),
	}, user...), opcua.SecurityFromEndpoint(e, kind))...)
}

func TestWhoMayConnect(t *testing.T) {
	t.Parallel()
	o, client := secured(t)
	stranger, operator, unknown := mustIdentity(t, "stranger", "urn:gopcua:client"), mustIdentity(t, "operator", "urn:user"), mustIdentity(t, "unknown", "urn:user")
	o.TrustedUsers = append(o.TrustedUsers, operator.cert)
	f := mustServe(t, o, rules{passwords: map[string]string{"worker": "secret"}}.options)
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	const encrypted = ua.MessageSecurityModeSignAndEncrypt
	for name, connect := range map[string]func() (*opcua.Client, error){
		"password": func() (*opcua.Client, error) {
			return f.dialSecure(client, encrypted, ua.UserTokenTypeUserName, opcua.AuthUsername("worker", "secret"))
		},
		"certificate": func() (*opcua.Client, error) {
			return f.dialSecure(client, encrypted, ua.UserTokenTypeCertificate, opcua.AuthCertificate(operator.cert.Raw), opcua.AuthPrivateKey(operator.key))
		},
	} {
		c, err := connect()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f.await(c, topic("plant/a"), int64(1))
	}
	for name, connect := range map[string]func() (*opcua.Client, error){
		"wrong password": func() (*opcua.Client, error) {
			return f.dialSecure(client, encrypted, ua.UserTokenTypeUserName, opcua.AuthUsername("worker", "wrong"))
		},
		"no user": func() (*opcua.Client, error) {
			return f.dialSecure(client, encrypted, ua.UserTokenTypeAnonymous, opcua.AuthAnonymous())
		},
		"unknown user's certificate": func() (*opcua.Client, error) {
			return f.dialSecure(client, encrypted, ua.UserTokenTypeCertificate, opcua.AuthCertificate(unknown.cert.Raw), opcua.AuthPrivateKey(unknown.key))
		},
		"another's certificate": func() (*opcua.Client, error) {
			return f.dialSecure(client, encrypted, ua.UserTokenTypeCertificate, opcua.AuthCertificate(operator.cert.Raw), opcua.AuthPrivateKey(unknown.key))
		},
		"unknown application": func() (*opcua.Client, error) {
			return f.dialSecure(stranger, encrypted, ua.UserTokenTypeUserName, opcua.AuthUsername("worker", "secret"))
		},
		"signatures only": func() (*opcua.Client, error) {
			return f.dialSecure(client, ua.MessageSecurityModeSign, ua.UserTokenTypeUserName, opcua.AuthUsername("worker", "secret"))
		},
		"no policy": func() (*opcua.Client, error) {
			return f.dial(opcua.AuthUsername("worker", "secret"), opcua.AuthPolicyID("username"))
		},
	} {
		if _, err := connect(); err == nil {
			t.Errorf("%s: it was let in", name)
		}
	}
	f.awaitRefused(metrics.OPCUAServerCredentials)
	f.awaitRefused(metrics.OPCUAServerCertificate)
}

func TestSignaturesOnly(t *testing.T) {
	t.Parallel()
	o, client := secured(t)
	o.AllowSign, o.Anonymous = true, true
	f := mustServe(t, o)
	c, err := f.dialSecure(client, ua.MessageSecurityModeSign, ua.UserTokenTypeAnonymous, opcua.AuthAnonymous())
	if err != nil {
		t.Fatal(err)
	}
	if v := f.read(c, ua.NewNumericNodeID(0, id.Server_ServerStatus_State)); v.Value.Value() != int32(0) {
		t.Errorf("the state is %v", v.Value.Value())
	}
	if _, err := f.dialSecure(client, ua.MessageSecurityModeSignAndEncrypt, ua.UserTokenTypeAnonymous, opcua.AuthAnonymous()); err != nil {
		t.Error(err)
	}
}

func TestAPlainPassword(t *testing.T) {
	t.Parallel()
	for _, allowed := range []bool{true, false} {
		o := open("plant/#")
		o.Anonymous, o.PlainPassword = false, allowed
		f := mustServe(t, o, rules{passwords: map[string]string{"worker": "secret"}}.options)
		if _, err := f.dial(opcua.AuthUsername("worker", "secret"), opcua.AuthPolicyID("username")); (err == nil) != allowed {
			t.Errorf("allowed: %v, got %v", allowed, err)
		}
		if _, err := f.dial(opcua.AuthUsername("worker", "wrong"), opcua.AuthPolicyID("username")); err == nil {
			t.Error("with a wrong password it was let in")
		}
	}
}

func TestOptionsThatCantBe(t *testing.T) {
	t.Parallel()
	own, other := mustIdentity(t, "server", "urn:test:loopmq"), mustIdentity(t, "client", "urn:gopcua:client")
	for want, change := range map[string]func(*opcuaserver.Options){
		"Filters: there is none":    func(o *opcuaserver.Options) { o.Filters = nil },
		"is no Topic Filter":        func(o *opcuaserver.Options) { o.Filters = []string{"a/#/b"} },
		"or a shared subscription":  func(o *opcuaserver.Options) { o.Filters = []string{"$share/g/a"} },
		"no security policy":        func(o *opcuaserver.Options) { o.None = false },
		"needs a certificate":       func(o *opcuaserver.Options) { o.Basic256Sha256 = true },
		"needs Trusted":             func(o *opcuaserver.Options) { o.Basic256Sha256, o.Certificate, o.Key = true, own.cert, own.key },
		"TrustedUsers needs":        func(o *opcuaserver.Options) { o.TrustedUsers = append(o.TrustedUsers, own.cert) },
		"WriteQoS":                  func(o *opcuaserver.Options) { o.WriteQoS = 3 },
		"Key isn't that of":         func(o *opcuaserver.Options) { o.Certificate, o.Key = own.cert, other.key },
		"isn't for the application": func(o *opcuaserver.Options) { o.Certificate, o.Key, o.ApplicationURI = own.cert, own.key, "urn:x" },
	} {
		o := open("a")
		change(&o)
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestRights(t *testing.T) {
	t.Parallel()
	o := open("plant/#")
	o.Anonymous, o.PlainPassword = false, true
	allowed := map[string]bool{"worker read plant/a": true, "worker write plant/b": true}
	f := mustServe(t, o, rules{passwords: map[string]string{"worker": "secret"}, allowed: func(what string) bool { return allowed[what] }}.options)
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Subscribe("plant/b", 1)
	p.Publish("plant/a", "1", 1, brokertest.Retained)
	p.Publish("plant/b", "1", 1, brokertest.Retained)
	p.Acknowledge(p.ExpectPublish("plant/b", "1"))
	c := f.mustDial(opcua.AuthUsername("worker", "secret"), opcua.AuthPolicyID("username"))
	f.await(c, topic("plant/a"), int64(1))
	f.eventually(func() bool { return f.read(c, topic("plant/b")).Status == ua.StatusBadUserAccessDenied }, func() string { return "plant/b may be read" })
	if s := f.write(c, topic("plant/a"), 2.0); s != ua.StatusBadUserAccessDenied {
		t.Errorf("a write of what mustn't be: %v", s)
	}
	if s := f.write(c, topic("plant/b"), "two"); s != ua.StatusOK {
		t.Errorf("a write: %v", s)
	}
	m := p.ExpectPublish("plant/b", "two")
	if m.QoS != 1 || m.Retain || m.Properties.PayloadFormatIndicator != 1 {
		t.Errorf("got %+v", m)
	}
	p.Acknowledge(m)
	for node, want := range map[string]byte{"plant/a": 1, "plant/b": 2} {
		r := mustSend[*ua.ReadResponse](f, c, &ua.ReadRequest{NodesToRead: []*ua.ReadValueID{{NodeID: topic(node), AttributeID: ua.AttributeIDUserAccessLevel, DataEncoding: &ua.QualifiedName{}}}})
		if got := r.Results[0].Value.Value(); got != want {
			t.Errorf("%s: UserAccessLevel %v, want %v", node, got, want)
		}
	}
	if f.set.OPCUAServer.Writes.Get() != 1 || f.set.OPCUAServer.WritesRefused.Get() != 1 {
		t.Errorf("%d writes, %d refused", f.set.OPCUAServer.Writes.Get(), f.set.OPCUAServer.WritesRefused.Get())
	}
	f.awaitRefused(metrics.OPCUAServerNotAuthorized)

	// Who is sent away can do nothing any more.
	if n := f.broker.Broker.DisconnectWhere(func(i *loopmq.ClientInfo) bool { return i.Username == "worker" }, codec.AdministrativeAction); n == 0 {
		t.Error("nobody was found")
	}
	if _, err := send[*ua.WriteResponse](f, c, &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{{
		NodeID: topic("plant/b"), AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(true)},
	}}}); !errors.Is(err, ua.StatusBadSessionClosed) {
		t.Errorf("got %v", err)
	}
}

func TestWhatCantBeWritten(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/a"))
	c := f.mustDial()
	brokertest.Connect(t, f.broker.Addr, codec.V5).Publish("plant/a", "0", 1, brokertest.Retained)
	f.await(c, topic("plant/a"), int64(0)) // the server has subscribed
	ok := &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(1.0)}
	for name, w := range map[string]struct {
		value *ua.WriteValue
		want  ua.StatusCode
	}{
		"no node":       {&ua.WriteValue{NodeID: topic("plant/b"), AttributeID: ua.AttributeIDValue, Value: ok}, ua.StatusBadNodeIDUnknown},
		"no attribute":  {&ua.WriteValue{NodeID: topic("plant/a"), AttributeID: 99, Value: ok}, ua.StatusBadAttributeIDInvalid},
		"its name":      {&ua.WriteValue{NodeID: topic("plant/a"), AttributeID: ua.AttributeIDDisplayName, Value: ok}, ua.StatusBadNotWritable},
		"a constant":    {&ua.WriteValue{NodeID: ua.NewNumericNodeID(0, id.Server_ServiceLevel), AttributeID: ua.AttributeIDValue, Value: ok}, ua.StatusBadNotWritable},
		"a part":        {&ua.WriteValue{NodeID: topic("plant/a"), AttributeID: ua.AttributeIDValue, IndexRange: "1", Value: ok}, ua.StatusBadWriteNotSupported},
		"a status":      {&ua.WriteValue{NodeID: topic("plant/a"), AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: 3, Value: ok.Value, Status: ua.StatusBad}}, ua.StatusBadWriteNotSupported},
		"a list":        {&ua.WriteValue{NodeID: topic("plant/a"), AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: 1, Value: ua.MustVariant([]float64{1})}}, ua.StatusBadTypeMismatch},
		"nothing":       {&ua.WriteValue{NodeID: topic("plant/a"), AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{}}, ua.StatusBadTypeMismatch},
		"a time":        {&ua.WriteValue{NodeID: topic("plant/a"), AttributeID: ua.AttributeIDValue, Value: &ua.DataValue{EncodingMask: 1, Value: ua.MustVariant(time.Now())}}, ua.StatusBadTypeMismatch},
		"an opaque id":  {&ua.WriteValue{NodeID: ua.NewByteStringNodeID(2, []byte("plant/a")), AttributeID: ua.AttributeIDValue, Value: ok}, ua.StatusBadNodeIDUnknown},
		"what is there": {&ua.WriteValue{NodeID: topic("plant/a"), AttributeID: ua.AttributeIDValue, Value: ok}, ua.StatusOK},
	} {
		if got := mustSend[*ua.WriteResponse](f, c, &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{w.value}}).Results[0]; got != w.want {
			t.Errorf("%s: %v, want %v", name, got, w.want)
		}
	}
	f.await(c, topic("plant/a"), int64(1))
}

func TestAttributes(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("plant/#", "quiet"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	p.Publish("plant/a", "on", 1, brokertest.Retained)
	c := f.mustDial()
	f.await(c, topic("plant/a"), "on")
	of := func(node *ua.NodeID, a ua.AttributeID) any {
		v := mustSend[*ua.ReadResponse](f, c, &ua.ReadRequest{NodesToRead: []*ua.ReadValueID{{NodeID: node, AttributeID: a, DataEncoding: &ua.QualifiedName{}}}}).Results[0]
		if v.Status != ua.StatusOK {
			return v.Status
		}
		switch x := v.Value.Value().(type) {
		case *ua.NodeID:
			return x.String()
		case *ua.QualifiedName:
			return fmt.Sprint(x.NamespaceIndex, ":", x.Name)
		case *ua.LocalizedText:
			return x.Text
		case []string:
			return strings.Join(x, " ")
		case []uint32, *ua.ExtensionObject:
			return fmt.Sprintf("%T", x)
		default:
			return x
		}
	}
	number := func(n uint32) *ua.NodeID { return ua.NewNumericNodeID(0, n) }
	for _, tt := range []struct {
		node      *ua.NodeID
		attribute ua.AttributeID
		want      any
	}{
		{topic("plant/a"), ua.AttributeIDNodeID, "ns=2;s=plant/a"},
		{topic("plant/a"), ua.AttributeIDNodeClass, int32(ua.NodeClassVariable)},
		{topic("plant/a"), ua.AttributeIDBrowseName, "2:a"},
		{topic("plant/a"), ua.AttributeIDDisplayName, "a"},
		{topic("plant/a"), ua.AttributeIDDescription, "plant/a"},
		{topic("plant/a"), ua.AttributeIDWriteMask, uint32(0)},
		{topic("plant/a"), ua.AttributeIDDataType, "i=12"},
		{topic("plant/a"), ua.AttributeIDValueRank, int32(-1)},
		{topic("plant/a"), ua.AttributeIDArrayDimensions, ua.StatusBadAttributeIDInvalid},
		{topic("plant/a"), ua.AttributeIDAccessLevel, byte(3)},
		{topic("plant/a"), ua.AttributeIDUserAccessLevel, byte(3)},
		{topic("plant/a"), ua.AttributeIDMinimumSamplingInterval, 0.0},
		{topic("plant/a"), ua.AttributeIDHistorizing, false},
		{topic("plant/a"), ua.AttributeIDEventNotifier, ua.StatusBadAttributeIDInvalid},
		{topic("plant/a"), 99, ua.StatusBadAttributeIDInvalid},
		{topic("quiet"), ua.AttributeIDValue, ua.StatusBadWaitingForInitialData},
		{topic("quiet"), ua.AttributeIDDataType, "i=24"},
		{ua.NewStringNodeID(3, "plant"), ua.AttributeIDEventNotifier, byte(0)},
		{ua.NewStringNodeID(3, "plant"), ua.AttributeIDBrowseName, "3:plant"},
		{ua.NewStringNodeID(3, "plant"), ua.AttributeIDValue, ua.StatusBadAttributeIDInvalid},
		{ua.NewStringNodeID(3, "plant"), ua.AttributeIDDescription, ""},
		{number(id.Server_NamespaceArray), ua.AttributeIDValueRank, int32(1)},
		{number(id.Server_NamespaceArray), ua.AttributeIDArrayDimensions, "[]uint32"},
		{number(id.Server_NamespaceArray), ua.AttributeIDUserAccessLevel, byte(1)},
		{number(id.Server_NamespaceArray), ua.AttributeIDAccessLevel, byte(1)},
		{number(id.Server_ServerStatus), ua.AttributeIDValue, "*ua.ExtensionObject"},
		{number(id.Server_ServerStatus_BuildInfo), ua.AttributeIDValue, "*ua.ExtensionObject"},
		{number(id.Server_ServiceLevel), ua.AttributeIDValue, byte(255)},
		{number(id.Server_Auditing), ua.AttributeIDValue, false},
		{number(id.Server_ServerStatus_ShutdownReason), ua.AttributeIDValue, ""},
		{number(id.Server_ServerStatus_SecondsTillShutdown), ua.AttributeIDValue, uint32(0)},
		{number(id.Server_ServerCapabilities_LocaleIDArray), ua.AttributeIDValue, "en"},
		{number(id.Server_ServerCapabilities_ServerProfileArray), ua.AttributeIDDataType, "i=12"},
		{number(id.Server_ServerCapabilities_MinSupportedSampleRate), ua.AttributeIDValue, 0.0},
		{number(id.Server_ServerCapabilities_MaxBrowseContinuationPoints), ua.AttributeIDValue, uint16(10)},
		{number(id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead), ua.AttributeIDValue, uint32(1000)},
		{number(id.BaseVariableType), ua.AttributeIDIsAbstract, true},
		{number(id.BaseVariableType), ua.AttributeIDDataType, "i=24"},
		{number(id.BaseVariableType), ua.AttributeIDValueRank, int32(-2)},
		{number(id.Organizes), ua.AttributeIDIsAbstract, false},
		{number(id.Organizes), ua.AttributeIDSymmetric, false},
		{number(id.Organizes), ua.AttributeIDInverseName, ""},
		{number(id.FolderType), ua.AttributeIDIsAbstract, false},
		{number(4711), ua.AttributeIDNodeID, ua.StatusBadNodeIDUnknown},
	} {
		if got := of(tt.node, tt.attribute); got != tt.want {
			t.Errorf("%v of %v: %v, want %v", tt.attribute, tt.node, got, tt.want)
		}
	}
	for want, q := range map[ua.StatusCode]*ua.ReadRequest{
		ua.StatusBadNothingToDo:               {},
		ua.StatusBadTooManyOperations:         {NodesToRead: slices.Repeat([]*ua.ReadValueID{{NodeID: topic("plant/a"), AttributeID: 13, DataEncoding: &ua.QualifiedName{}}}, 1001)},
		ua.StatusBadTimestampsToReturnInvalid: {TimestampsToReturn: 9, NodesToRead: []*ua.ReadValueID{{NodeID: topic("plant/a"), AttributeID: 13}}},
		ua.StatusBadMaxAgeInvalid:             {MaxAge: -1, NodesToRead: []*ua.ReadValueID{{NodeID: topic("plant/a"), AttributeID: 13}}},
	} {
		for _, n := range q.NodesToRead {
			n.DataEncoding = &ua.QualifiedName{}
		}
		if _, err := send[*ua.ReadResponse](f, c, q); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if _, err := send[*ua.CallResponse](f, c, &ua.CallRequest{}); !errors.Is(err, ua.StatusBadServiceUnsupported) {
		t.Errorf("a call: %v", err)
	}
	f.awaitRefused(metrics.OPCUAServerUnsupported)
}

func TestBrowse(t *testing.T) {
	t.Parallel()
	f := mustServe(t, open("many/#", "a//b", "x/y"))
	p := brokertest.Connect(t, f.broker.Addr, codec.V5)
	const many = 2500
	for i := range many {
		p.Publish(fmt.Sprintf("many/%04d", i), "1", 1, brokertest.Retained)
	}
	c := f.mustDial()
	f.await(c, topic(fmt.Sprintf("many/%04d", many-1)), int64(1))
	describe := &ua.BrowseDescription{NodeID: ua.NewStringNodeID(3, "many"), ReferenceTypeID: ua.NewTwoByteNodeID(0), ResultMask: 63}
	r := mustSend[*ua.BrowseResponse](f, c, &ua.BrowseRequest{View: noView(), NodesToBrowse: []*ua.BrowseDescription{describe}}).Results[0]
	names := map[string]bool{}
	for calls := 1; ; calls++ {
		for _, n := range r.References {
			names[n.NodeID.NodeID.String()] = true
		}
		if len(r.ContinuationPoint) == 0 {
			if calls != 3 {
				t.Errorf("it took %d calls", calls)
			}
			break
		}
		r = mustSend[*ua.BrowseNextResponse](f, c, &ua.BrowseNextRequest{ContinuationPoints: [][]byte{r.ContinuationPoint}}).Results[0]
	}
	if len(names) != many+1 { // with the type
		t.Errorf("%d references", len(names))
	}

	// What is kept of them is bounded, and can be given back.
	var points [][]byte
	for range 10 {
		r := mustSend[*ua.BrowseResponse](f, c, &ua.BrowseRequest{View: noView(), RequestedMaxReferencesPerNode: 10, NodesToBrowse: []*ua.BrowseDescription{describe}}).Results[0]
		if len(r.References) != 10 {
			t.Fatalf("%d references", len(r.References))
		}
		points = append(points, r.ContinuationPoint)
	}
	q := &ua.BrowseRequest{View: noView(), RequestedMaxReferencesPerNode: 10, NodesToBrowse: []*ua.BrowseDescription{describe}}
	if r := mustSend[*ua.BrowseResponse](f, c, q).Results[0]; r.StatusCode != ua.StatusBadNoContinuationPoints {
		t.Errorf("an eleventh: %v", r.StatusCode)
	}
	for _, r := range mustSend[*ua.BrowseNextResponse](f, c, &ua.BrowseNextRequest{ReleaseContinuationPoints: true, ContinuationPoints: points}).Results {
		if r.StatusCode != ua.StatusOK {
			t.Errorf("released: %v", r.StatusCode)
		}
	}
	if r := mustSend[*ua.BrowseNextResponse](f, c, &ua.BrowseNextRequest{ContinuationPoints: points[:1]}).Results[0]; r.StatusCode != ua.StatusBadContinuationPointInvalid {
		t.Errorf("after that: %v", r.StatusCode)
	}

	// Nobody has the server look at the same again and again, which others wait for.
	if _, err := send[*ua.BrowseResponse](f, c, &ua.BrowseRequest{
		View: noView(), NodesToBrowse: slices.Repeat([]*ua.BrowseDescription{{NodeID: describe.NodeID, ReferenceTypeID: ua.NewTwoByteNodeID(id.HasProperty)}}, 1000),
	}); !errors.Is(err, ua.StatusBadTooManyOperations) {
		t.Errorf("a folder a thousand times: %v", err)
	}
	down := func(name string) *ua.RelativePathElement {
		return &ua.RelativePathElement{ReferenceTypeID: ua.NewTwoByteNodeID(0), TargetName: &ua.QualifiedName{NamespaceIndex: 2, Name: name}}
	}
	if _, err := send[*ua.TranslateBrowsePathsToNodeIDsResponse](f, c, &ua.TranslateBrowsePathsToNodeIDsRequest{
		BrowsePaths: slices.Repeat([]*ua.BrowsePath{{StartingNode: describe.NodeID, RelativePath: &ua.RelativePath{Elements: []*ua.RelativePathElement{down("0001")}}}}, 1000),
	}); !errors.Is(err, ua.StatusBadTooManyOperations) {
		t.Errorf("a path a thousand times: %v", err)
	}

	list := func(d *ua.BrowseDescription) string {
		if d.ReferenceTypeID == nil {
			d.ReferenceTypeID = ua.NewTwoByteNodeID(0)
		}
		d.ResultMask = 63
		r := mustSend[*ua.BrowseResponse](f, c, &ua.BrowseRequest{View: noView(), NodesToBrowse: []*ua.BrowseDescription{d}}).Results[0]
		if r.StatusCode != ua.StatusOK {
			return r.StatusCode.Error()
		}
		var all []string
		for _, n := range r.References {
			all = append(all, n.NodeID.NodeID.String()+"="+n.BrowseName.Name)
		}
		return strings.Join(all, " ")
	}
	number := func(n uint32) *ua.NodeID { return ua.NewNumericNodeID(0, n) }
	for _, tt := range []struct {
		d    *ua.BrowseDescription
		want string
	}{
		{&ua.BrowseDescription{NodeID: ua.NewStringNodeID(3, "a"), ReferenceTypeID: number(id.Organizes)}, "ns=3;s=a/=(empty)"},
		{&ua.BrowseDescription{NodeID: ua.NewStringNodeID(3, "a/"), ReferenceTypeID: number(id.HierarchicalReferences), IncludeSubtypes: true}, "ns=2;s=a//b=b"},
		{&ua.BrowseDescription{NodeID: ua.NewStringNodeID(3, "a/"), ReferenceTypeID: number(id.HierarchicalReferences)}, ""},
		{&ua.BrowseDescription{NodeID: topic("x/y"), BrowseDirection: ua.BrowseDirectionInverse}, "ns=3;s=x=x"},
		{&ua.BrowseDescription{NodeID: topic("x/y"), BrowseDirection: ua.BrowseDirectionBoth}, "i=63=BaseDataVariableType ns=3;s=x=x"},
		{&ua.BrowseDescription{NodeID: ua.NewStringNodeID(3, "x"), NodeClassMask: uint32(ua.NodeClassVariable)}, "ns=2;s=x/y=y"},
		{&ua.BrowseDescription{NodeID: number(id.Server), ReferenceTypeID: number(id.HasProperty)}, "i=2994=Auditing i=2255=NamespaceArray i=2254=ServerArray i=2267=ServiceLevel"},
		{&ua.BrowseDescription{NodeID: topic("none")}, ua.StatusBadNodeIDUnknown.Error()},
		{&ua.BrowseDescription{NodeID: topic("x/y"), BrowseDirection: 7}, ua.StatusBadBrowseDirectionInvalid.Error()},
		{&ua.BrowseDescription{NodeID: topic("x/y"), ReferenceTypeID: number(id.Server)}, ua.StatusBadReferenceTypeIDInvalid.Error()},
	} {
		if got := list(tt.d); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.d, got, tt.want)
		}
	}
	follow := func(inverse bool, path ...string) string {
		p := &ua.BrowsePath{StartingNode: number(id.ObjectsFolder), RelativePath: &ua.RelativePath{}}
		if inverse {
			p.StartingNode = topic("x/y")
		}
		for i, n := range path {
			ns := uint16(3)
			if !inverse && i == 0 {
				ns = 1
			} else if !inverse && i == len(path)-1 {
				ns = 2
			}
			p.RelativePath.Elements = append(p.RelativePath.Elements, &ua.RelativePathElement{
				ReferenceTypeID: number(id.HierarchicalReferences), IncludeSubtypes: true, IsInverse: inverse, TargetName: &ua.QualifiedName{NamespaceIndex: ns, Name: n},
			})
		}
		r := mustSend[*ua.TranslateBrowsePathsToNodeIDsResponse](f, c, &ua.TranslateBrowsePathsToNodeIDsRequest{BrowsePaths: []*ua.BrowsePath{p}}).Results[0]
		if r.StatusCode != ua.StatusOK {
			return r.StatusCode.Error()
		}
		return r.Targets[0].TargetID.NodeID.String()
	}
	for want, got := range map[string]string{
		"ns=2;s=x/y":                          follow(false, "Topics", "x", "y"),
		"ns=3;s=x":                            follow(true, "x"),
		ua.StatusBadNoMatch.Error():           follow(false, "Topics", "x", "z"),
		ua.StatusBadNothingToDo.Error():       follow(false),
		ua.StatusBadBrowseNameInvalid.Error(): follow(false, ""),
		ua.StatusBadTooManyOperations.Error(): follow(false, slices.Repeat([]string{"x"}, 101)...),
	} {
		if got != want {
			t.Errorf("a path leads to %s, want %s", got, want)
		}
	}
	if _, err := send[*ua.BrowseResponse](f, c, &ua.BrowseRequest{View: &ua.ViewDescription{ViewID: topic("v")}, NodesToBrowse: []*ua.BrowseDescription{describe}}); err != nil {
		t.Logf("a view: %v", err)
	}
	ids := []*ua.NodeID{topic("x/y")}
	if r := mustSend[*ua.RegisterNodesResponse](f, c, &ua.RegisterNodesRequest{NodesToRegister: ids}); r.RegisteredNodeIDs[0].String() != ids[0].String() {
		t.Errorf("registered as %v", r.RegisteredNodeIDs[0])
	}
	mustSend[*ua.UnregisterNodesResponse](f, c, &ua.UnregisterNodesRequest{NodesToUnregister: ids})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if r, err := opcua.FindServers(ctx, f.url); err != nil || len(r) != 1 || r[0].ApplicationURI == "" {
		t.Errorf("servers: %v %v", r, err)
	}
}

func noView() *ua.ViewDescription { return &ua.ViewDescription{ViewID: ua.NewTwoByteNodeID(0)} }
