package opcuaserver

import (
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"loopmq/bridges/opcua/wire"
)

// responseMax bounds a response.
const responseMax = 8 << 20

// requests are the services there are, by the ids of their requests.
var requests = map[uint32]reflect.Type{
	id.OpenSecureChannelRequest_Encoding_DefaultBinary:             reflect.TypeFor[ua.OpenSecureChannelRequest](),
	id.GetEndpointsRequest_Encoding_DefaultBinary:                  reflect.TypeFor[ua.GetEndpointsRequest](),
	id.FindServersRequest_Encoding_DefaultBinary:                   reflect.TypeFor[ua.FindServersRequest](),
	id.CreateSessionRequest_Encoding_DefaultBinary:                 reflect.TypeFor[ua.CreateSessionRequest](),
	id.ActivateSessionRequest_Encoding_DefaultBinary:               reflect.TypeFor[ua.ActivateSessionRequest](),
	id.CloseSessionRequest_Encoding_DefaultBinary:                  reflect.TypeFor[ua.CloseSessionRequest](),
	id.ReadRequest_Encoding_DefaultBinary:                          reflect.TypeFor[ua.ReadRequest](),
	id.WriteRequest_Encoding_DefaultBinary:                         reflect.TypeFor[ua.WriteRequest](),
	id.BrowseRequest_Encoding_DefaultBinary:                        reflect.TypeFor[ua.BrowseRequest](),
	id.BrowseNextRequest_Encoding_DefaultBinary:                    reflect.TypeFor[ua.BrowseNextRequest](),
	id.TranslateBrowsePathsToNodeIDsRequest_Encoding_DefaultBinary: reflect.TypeFor[ua.TranslateBrowsePathsToNodeIDsRequest](),
	id.RegisterNodesRequest_Encoding_DefaultBinary:                 reflect.TypeFor[ua.RegisterNodesRequest](),
	id.UnregisterNodesRequest_Encoding_DefaultBinary:               reflect.TypeFor[ua.UnregisterNodesRequest](),
	id.CreateSubscriptionRequest_Encoding_DefaultBinary:            reflect.TypeFor[ua.CreateSubscriptionRequest](),
	id.ModifySubscriptionRequest_Encoding_DefaultBinary:            reflect.TypeFor[ua.ModifySubscriptionRequest](),
	id.SetPublishingModeRequest_Encoding_DefaultBinary:             reflect.TypeFor[ua.SetPublishingModeRequest](),
	id.DeleteSubscriptionsRequest_Encoding_DefaultBinary:           reflect.TypeFor[ua.DeleteSubscriptionsRequest](),
	id.CreateMonitoredItemsRequest_Encoding_DefaultBinary:          reflect.TypeFor[ua.CreateMonitoredItemsRequest](),
	id.ModifyMonitoredItemsRequest_Encoding_DefaultBinary:          reflect.TypeFor[ua.ModifyMonitoredItemsRequest](),
	id.SetMonitoringModeRequest_Encoding_DefaultBinary:             reflect.TypeFor[ua.SetMonitoringModeRequest](),
	id.DeleteMonitoredItemsRequest_Encoding_DefaultBinary:          reflect.TypeFor[ua.DeleteMonitoredItemsRequest](),
	id.PublishRequest_Encoding_DefaultBinary:                       reflect.TypeFor[ua.PublishRequest](),
	id.RepublishRequest_Encoding_DefaultBinary:                     reflect.TypeFor[ua.RepublishRequest](),
}

// unsupported is a request of a service that there isn't. All that is known of it is its header.
type unsupported struct{ ua.CloseSessionRequest }

// decodeRequest returns a request. messageMax is the size of the largest one.
func decodeRequest(b []byte, messageMax int) (q ua.Request, err error) {
	n, err := wire.Check(b, reflect.TypeFor[*ua.ExpandedNodeID](), messageMax)
	if err != nil {
		return nil, err
	}
	var service ua.ExpandedNodeID
	if _, err := service.Decode(b[:n]); err != nil {
		return nil, err
	}
	var t reflect.Type
	if service.NodeID.Namespace() == 0 {
		t = requests[service.NodeID.IntID()]
	}
	body := b[n:]
	if t == nil {
		u := &unsupported{}
		if _, err := wire.Check(body, reflect.TypeFor[ua.RequestHeader](), messageMax); err != nil {
			return nil, err
		}
		u.RequestHeader = &ua.RequestHeader{}
		_, err := ua.Decode(body, u.RequestHeader)
		return u, err
	}
	if _, err := wire.Check(body, t, messageMax); err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil { // the codec's fault
			q, err = nil, fmt.Errorf("%w: %v", wire.ErrMalformed, p)
		}
	}()
	v := reflect.New(t).Interface()
	if _, err := ua.Decode(body, v); err != nil {
		return nil, err
	}
	return v.(ua.Request), nil
}

// encodeResponse returns a response as it is sent.
func encodeResponse(r ua.Response) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // the codec's fault
			b, err = nil, fmt.Errorf("encode %T: %v", r, p)
		}
	}()
	name, err := ua.NewFourByteExpandedNodeID(0, ua.ServiceTypeID(r)).Encode()
	if err != nil {
		return nil, err
	}
	body, err := ua.Encode(r)
	if err != nil {
		return nil, err
	}
	return append(name, body...), nil
}

func responseHeader(q *ua.RequestHeader, status ua.StatusCode) *ua.ResponseHeader {
	return &ua.ResponseHeader{
		Timestamp: time.Now(), RequestHandle: q.RequestHandle, ServiceResult: status, ServiceDiagnostics: &ua.DiagnosticInfo{}, AdditionalHeader: ua.NewExtensionObject(nil),
	}
}

// faultOf is the answer in place of another.
func faultOf(h *ua.ResponseHeader, status ua.StatusCode) ua.Response {
	own := *h
	own.ServiceResult = status
	return &ua.ServiceFault{ResponseHeader: &own}
}

// statusOf returns the status that an error stands for.
func statusOf(err error) ua.StatusCode {
	var status ua.StatusCode
	if errors.As(err, &status) {
		return status
	}
	return ua.StatusBadInternalError
}

// handle answers a request. An error ends the connection.
func (s *server) handle(c *channel, request uint32, message []byte) error {
	c.began.Store(time.Now().UnixNano())
	q, err := decodeRequest(message, s.setup.MessageBytes)
	if err != nil {
		return failed(ua.StatusBadDecodingError, "request: %v", err)
	}
	body, err := s.answer(c, request, q)
	c.began.Store(0) // that the client takes its time isn't ours
	if err != nil {
		body = faultOf(responseHeader(q.Header(), ua.StatusOK), statusOf(err))
	}
	if body != nil && !c.send(response{request: request, body: body}) {
		return errClosed
	}
	return nil
}

var errClosed = errors.New("the connection is closed")

// answer calls the service of a request. Without a response and an error the answer comes later.
func (s *server) answer(c *channel, request uint32, q ua.Request) (r ua.Response, err error) {
	defer func() {
		if p := recover(); p != nil { // ours; others shall not suffer from it
			s.log.Error("opcua_server_panic", "request", fmt.Sprintf("%T", q), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			r, err = nil, ua.StatusBadInternalError
		}
	}()
	switch q := q.(type) {
	case *ua.GetEndpointsRequest:
		return s.getEndpoints(q), nil
	case *ua.FindServersRequest:
		return s.findServers(q), nil
	case *ua.CreateSessionRequest:
		return s.createSession(c, q)
	case *ua.ActivateSessionRequest:
		return s.activateSession(c, q)
	case *unsupported:
		s.refuse(refusedUnsupported)
		return nil, ua.StatusBadServiceUnsupported
	}
	ss, err := s.sessionOf(c, q.Header())
	if err != nil {
		return nil, err
	}
	switch q := q.(type) {
	case *ua.CloseSessionRequest:
		return s.closeSession(ss, q)
	case *ua.ReadRequest:
		return s.readNodes(ss, q)
	case *ua.WriteRequest:
		return s.writeNodes(c, ss, q)
	case *ua.BrowseRequest:
		return s.browse(ss, q)
	case *ua.BrowseNextRequest:
		return s.browseNext(ss, q)
	case *ua.TranslateBrowsePathsToNodeIDsRequest:
		return s.translate(q)
	case *ua.RegisterNodesRequest: // they are found as fast as they are
		if err := several(len(q.NodesToRegister)); err != nil {
			return nil, err
		}
		return &ua.RegisterNodesResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), RegisteredNodeIDs: q.NodesToRegister}, nil
	case *ua.UnregisterNodesRequest:
		return &ua.UnregisterNodesResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}, nil
	case *ua.CreateSubscriptionRequest:
		return s.createSubscription(ss, q)
	case *ua.ModifySubscriptionRequest:
		return s.modifySubscription(ss, q)
	case *ua.SetPublishingModeRequest:
		return s.setPublishingMode(ss, q)
	case *ua.DeleteSubscriptionsRequest:
		return s.deleteSubscriptions(ss, q)
	case *ua.CreateMonitoredItemsRequest:
		return s.createMonitoredItems(ss, q)
	case *ua.ModifyMonitoredItemsRequest:
		return s.modifyMonitoredItems(ss, q)
	case *ua.SetMonitoringModeRequest:
		return s.setMonitoringMode(ss, q)
	case *ua.DeleteMonitoredItemsRequest:
		return s.deleteMonitoredItems(ss, q)
	case *ua.PublishRequest:
		return s.publish(ss, request, q)
	case *ua.RepublishRequest:
		return s.republish(ss, q)
	}
	s.refuse(refusedUnsupported)
	return nil, ua.StatusBadServiceUnsupported
}

// operationsMax is how many nodes, items or the like a request may have.
const operationsMax = 1000

// several checks how many operations a request has.
func several(n int) error {
	switch {
	case n == 0:
		return ua.StatusBadNothingToDo
	case n > operationsMax:
		return ua.StatusBadTooManyOperations
	}
	return nil
}
