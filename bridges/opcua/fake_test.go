package opcuabridge

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uacp"
	"github.com/gopcua/opcua/uasc"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/store/memory"
)

// fakeWait is how long a test waits for what must come.
const fakeWait = time.Minute

// fake is a server without security that answers as a test wants it to: well by default.
type fake struct {
	t        *testing.T
	listener net.Listener

	mu struct {
		sync.Mutex
		conn    net.Conn // the last one
		answers map[string]func(ua.Request) any
		asked   map[string]int
	}
}

// raw is what a server sends in place of a response: the chunks of a message, as they are.
type raw []byte

// silence is no answer.
type silence struct{}

func mustFake(t *testing.T) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, listener: l}
	f.mu.answers, f.mu.asked = make(map[string]func(ua.Request) any), make(map[string]int)
	t.Cleanup(func() {
		_ = l.Close()
		f.cut()
	})
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.mu.conn = conn
			f.mu.Unlock()
			go f.serve(conn)
		}
	}()
	return f
}

func (f *fake) url() string { return "opc.tcp://" + f.listener.Addr().String() }

// on has requests of a type answered by a function, which returns a response, raw, silence, or nil for the usual answer.
func (f *fake) on(request string, answer func(ua.Request) any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.answers[request] = answer
}

// cut ends the last connection.
func (f *fake) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.conn != nil {
		_ = f.mu.conn.Close()
	}
}

func (f *fake) serve(conn net.Conn) {
	defer conn.Close()
	for sequence := uint32(1); ; sequence++ {
		head := make([]byte, 8)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		b := make([]byte, binary.LittleEndian.Uint32(head[4:])-8)
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		switch string(head[:3]) {
		case "HEL":
			ack, _ := (&uacp.Acknowledge{ReceiveBufSize: chunkMin, SendBufSize: 65535}).Encode()
			_, _ = conn.Write(frame("ACKF", ack))
			continue
		case "CLO":
			return
		case "OPN":
			var h uasc.AsymmetricSecurityHeader
			n, _ := h.Decode(b[4:])
			b = b[4+n:]
		default:
			b = b[8:]
		}
		number := binary.LittleEndian.Uint32(b[4:])
		_, service, err := ua.DecodeService(b[8:])
		if err != nil {
			f.t.Errorf("a request: %v", err)
			return
		}
		req := service.(ua.Request)
		switch answer := f.answer(req).(type) {
		case silence:
		case raw:
			_, _ = conn.Write(answer)
		case ua.Response:
			_, _ = conn.Write(message(number, sequence, answer))
		}
	}
}

// message is a response as a message.
func message(request, sequence uint32, res ua.Response) []byte {
	h := res.Header()
	if h == nil {
		h = &ua.ResponseHeader{}
		res.SetHeader(h)
	}
	h.ServiceDiagnostics, h.AdditionalHeader = &ua.DiagnosticInfo{}, ua.NewExtensionObject(nil)
	body, err := ua.Encode(res)
	if err != nil {
		panic(err)
	}
	return enclose(request, sequence, res, body)
}

// enclose is the body of a response as a message.
func enclose(request, sequence uint32, res ua.Response, body []byte) []byte {
	prefix, _ := ua.NewFourByteExpandedNodeID(0, ua.ServiceTypeID(res)).Encode()
	kind, b := "MSGF", binary.LittleEndian.AppendUint32(nil, 1)
	if _, opening := res.(*ua.OpenSecureChannelResponse); opening {
		kind = "OPNF"
		h, _ := uasc.NewAsymmetricSecurityHeader(ua.SecurityPolicyURINone, nil, nil).Encode()
		b = append(b, h...)
	} else {
		b = binary.LittleEndian.AppendUint32(b, 1)
	}
	b = binary.LittleEndian.AppendUint32(b, sequence)
	b = binary.LittleEndian.AppendUint32(b, request)
	return frame(kind, append(append(b, prefix...), body...))
}

func (f *fake) answer(req ua.Request) any {
	name := strings.TrimSuffix(reflect.TypeOf(req).Elem().Name(), "Request")
	f.mu.Lock()
	f.mu.asked[name]++
	answer := f.mu.answers[name]
	f.mu.Unlock()
	if answer != nil {
		if a := answer(req); a != nil {
			return a
		}
	}
	switch r := req.(type) {
	case *ua.OpenSecureChannelRequest:
		return &ua.OpenSecureChannelResponse{SecurityToken: &ua.ChannelSecurityToken{ChannelID: 1, TokenID: 1, RevisedLifetime: r.RequestedLifetime}}
	case *ua.GetEndpointsRequest:
		return &ua.GetEndpointsResponse{Endpoints: []*ua.EndpointDescription{{
			EndpointURL: f.url(), Server: &ua.ApplicationDescription{ApplicationName: ua.NewLocalizedText("fake")}, SecurityMode: ua.MessageSecurityModeNone,
			SecurityPolicyURI: ua.SecurityPolicyURINone, UserIdentityTokens: []*ua.UserTokenPolicy{{PolicyID: "a", TokenType: ua.UserTokenTypeAnonymous}},
		}}}
	case *ua.CreateSessionRequest:
		return &ua.CreateSessionResponse{SessionID: ua.NewNumericNodeID(1, 1), AuthenticationToken: ua.NewNumericNodeID(1, 2), ServerSignature: &ua.SignatureData{}}
	case *ua.ActivateSessionRequest:
		return &ua.ActivateSessionResponse{}
	case *ua.CloseSessionRequest:
		return &ua.CloseSessionResponse{}
	case *ua.ReadRequest:
		res := &ua.ReadResponse{}
		for _, n := range r.NodesToRead {
			var v any = &ua.QualifiedName{Name: "X"}
			if n.NodeID.IntID() == id.Server_NamespaceArray {
				v = []string{"http://opcfoundation.org/UA/"}
			}
			res.Results = append(res.Results, &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(v)})
		}
		return res
	case *ua.CreateSubscriptionRequest:
		return &ua.CreateSubscriptionResponse{SubscriptionID: 7}
	case *ua.DeleteSubscriptionsRequest:
		return &ua.DeleteSubscriptionsResponse{Results: make([]ua.StatusCode, len(r.SubscriptionIDs))}
	case *ua.CreateMonitoredItemsRequest:
		res := &ua.CreateMonitoredItemsResponse{}
		for range r.ItemsToCreate {
			res.Results = append(res.Results, &ua.MonitoredItemCreateResult{FilterResult: ua.NewExtensionObject(nil)})
		}
		return res
	case *ua.RepublishRequest:
		return &ua.RepublishResponse{ResponseHeader: &ua.ResponseHeader{ServiceResult: ua.StatusBadMessageNotAvailable}, NotificationMessage: &ua.NotificationMessage{}}
	}
	return silence{}
}

// notification tells of a value of the first item.
func notification(sequence uint32, value any) *ua.NotificationMessage {
	return &ua.NotificationMessage{SequenceNumber: sequence, NotificationData: []*ua.ExtensionObject{ua.NewExtensionObject(&ua.DataChangeNotification{
		MonitoredItems: []*ua.MonitoredItemNotification{{ClientHandle: 1, Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(value)}}},
	})}}
}

func published(n *ua.NotificationMessage) *ua.PublishResponse {
	return &ua.PublishResponse{SubscriptionID: 7, NotificationMessage: n}
}

// served is a bridge at a fake, and a client that sees what it publishes.
type served struct {
	*fake
	*brokertest.Client
	bridge *Bridge
	broker *loopmq.Broker
}

func mustServeFake(t *testing.T, f *fake, changes ...func(*Endpoint)) *served {
	t.Helper()
	if brokertest.Outside() {
		t.Skip("needs a broker in this process")
	}
	st := memory.New(memory.Options{})
	t.Cleanup(func() { _ = st.Close() })
	s := brokertest.Start(t, func(o *loopmq.Options) { o.Store = st })
	c := brokertest.Connect(t, s.Addr, codec.V5)
	c.SetTimeout(fakeWait)
	c.Subscribe("x", 1)
	e := &Endpoint{
		Name: "e", URL: f.url(), Mappings: []Mapping{{Node: "i=1000", Topic: "x", QoS: 1, Format: FormatValue}}, RetryMin: 10 * time.Millisecond, RetryMax: 50 * time.Millisecond,
		PublishingInterval: 10 * time.Millisecond,
	}
	for _, change := range changes {
		change(e)
	}
	b, err := New(Options{Broker: s.Broker, Store: st, Logger: slog.New(slog.DiscardHandler), Endpoints: []*Endpoint{e}})
	if err != nil {
		t.Fatal(err)
	}
	b.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), fakeWait)
		defer cancel()
		b.Close(ctx)
	})
	return &served{f, c, b, s.Broker}
}

// await receives messages until one has a payload.
func (s *served) await(payload string) {
	s.t.Helper()
	for {
		p := brokertest.Expect[*codec.Publish](s.Client)
		s.Acknowledge(p)
		if string(p.Payload) == payload {
			return
		}
	}
}
