package opcuaserver

import (
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

const (
	accessRead  = byte(1)
	accessWrite = byte(2)
)

// dataValue is a value as a client has asked for it, with its times as they are wanted.
func dataValue(v *ua.DataValue, stamps ua.TimestampsToReturn) *ua.DataValue {
	own := *v
	own.EncodingMask &^= ua.DataValueSourceTimestamp | ua.DataValueServerTimestamp
	if (stamps == ua.TimestampsToReturnSource || stamps == ua.TimestampsToReturnBoth) && !v.SourceTimestamp.IsZero() {
		own.EncodingMask |= ua.DataValueSourceTimestamp
	}
	if stamps == ua.TimestampsToReturnServer || stamps == ua.TimestampsToReturnBoth {
		own.EncodingMask |= ua.DataValueServerTimestamp
		own.ServerTimestamp = time.Now()
	}
	return &own
}

func badValue(status ua.StatusCode) *ua.DataValue {
	return &ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: status}
}

func goodValue(v any) *ua.DataValue {
	return &ua.DataValue{EncodingMask: ua.DataValueValue, Value: ua.MustVariant(v)}
}

// currentLocked is the value of a variable.
func (n *node) currentLocked() *ua.DataValue {
	if n.get == nil {
		return n.value
	}
	v := goodValue(n.get())
	v.SourceTimestamp = time.Now()
	return v
}

// learn finds out what a user may do with topics, unless that is known.
func (s *server) learn(ss *session, topics []string, write bool) error {
	now := time.Now()
	asked := make(map[string]struct{})
	q := &Asking{Write: write}
	s.mu.Lock()
	q.Handle = ss.handle
	for _, t := range topics {
		if _, twice := asked[t]; !twice && !now.Before(ss.rights[question{t, write}].until) {
			asked[t] = struct{}{}
			q.Topics = append(q.Topics, t)
		}
	}
	s.mu.Unlock()
	if len(q.Topics) == 0 {
		return nil
	}
	var a Allowed
	if err := s.call("Authorize", q, &a); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Refusal != refusalNone || len(a.Allowed) != len(q.Topics) {
		s.endLocked(ss)
		return ua.StatusBadSessionClosed
	}
	if ss.handle != q.Handle { // it is another user's by now
		return ua.StatusBadUserAccessDenied
	}
	if len(ss.rights) > 4*len(s.mu.space.nodes) { // of topics that are no more
		clear(ss.rights)
	}
	for i, t := range q.Topics {
		ss.rights[question{t, write}] = right{a.Allowed[i], now.Add(rightsTTL)}
	}
	return nil
}

// topicsLocked returns the topics among nodes.
func (s *server) topics(ids func(yield func(*ua.NodeID) bool)) (topics []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range ids {
		if n := s.mu.space.find(i); n != nil && n.isTopic() {
			topics = append(topics, n.name.text)
		}
	}
	return topics
}

func validStamps(t ua.TimestampsToReturn) bool { return t <= ua.TimestampsToReturnNeither }

// readNodes reads attributes. [OPC 10000-4, 5.10.2]
func (s *server) readNodes(ss *session, q *ua.ReadRequest) (ua.Response, error) {
	if err := several(len(q.NodesToRead)); err != nil {
		return nil, err
	}
	switch {
	case !validStamps(q.TimestampsToReturn):
		return nil, ua.StatusBadTimestampsToReturnInvalid
	case !(q.MaxAge >= 0):
		return nil, ua.StatusBadMaxAgeInvalid
	}
	of := func(attribute ua.AttributeID) []string {
		return s.topics(func(yield func(*ua.NodeID) bool) {
			for _, r := range q.NodesToRead {
				if (r.AttributeID == attribute || r.AttributeID == ua.AttributeIDUserAccessLevel) && !yield(r.NodeID) {
					return
				}
			}
		})
	}
	if err := s.learn(ss, of(ua.AttributeIDValue), false); err != nil {
		return nil, err
	}
	if err := s.learn(ss, of(ua.AttributeIDUserAccessLevel), true); err != nil {
		return nil, err
	}
	r := &ua.ReadResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	budget := responseMax
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, what := range q.NodesToRead {
		v := s.attributeLocked(ss, what)
		if budget -= bytesOf(v); budget < 0 {
			s.refuse(refusedTooLarge)
			return nil, ua.StatusBadResponseTooLarge
		}
		stamps := q.TimestampsToReturn
		if what.AttributeID != ua.AttributeIDValue {
			stamps = ua.TimestampsToReturnNeither
		}
		r.Results = append(r.Results, dataValue(v, stamps))
	}
	return r, nil
}

// bytesOf is about as large as a value is.
func bytesOf(v *ua.DataValue) int {
	if v.Value != nil {
		switch x := v.Value.Value().(type) {
		case string:
			return 64 + len(x)
		case []byte:
			return 64 + len(x)
		}
	}
	return 64
}

// attributeLocked reads one attribute.
func (s *server) attributeLocked(ss *session, what *ua.ReadValueID) *ua.DataValue {
	n := s.mu.space.find(what.NodeID)
	if n == nil {
		return badValue(ua.StatusBadNodeIDUnknown)
	}
	if status := suits(what); status != ua.StatusOK {
		return badValue(status)
	}
	if what.AttributeID == ua.AttributeIDValue && n.class == ua.NodeClassVariable {
		if n.isTopic() && !ss.rights[question{n.name.text, false}].allowed {
			s.refuse(refusedNotAuthorized)
			return badValue(ua.StatusBadUserAccessDenied)
		}
		return n.currentLocked()
	}
	if v := s.describeLocked(ss, n, what.AttributeID); v != nil {
		return goodValue(v)
	}
	return badValue(ua.StatusBadAttributeIDInvalid)
}

// suits reports whether a part of a value, or an encoding, is asked for that there isn't.
func suits(what *ua.ReadValueID) ua.StatusCode {
	switch {
	case what.AttributeID < ua.AttributeIDNodeID || what.AttributeID > ua.AttributeIDAccessLevelEx:
		return ua.StatusBadAttributeIDInvalid
	case what.DataEncoding != nil && what.DataEncoding.Name != "" && what.DataEncoding.Name != "Default Binary":
		return ua.StatusBadDataEncodingUnsupported
	case what.DataEncoding != nil && what.DataEncoding.Name != "" && what.AttributeID != ua.AttributeIDValue:
		return ua.StatusBadDataEncodingInvalid
	case what.IndexRange != "":
		return ua.StatusBadIndexRangeNoData
	}
	return ua.StatusOK
}

// describeLocked returns an attribute other than the value of a variable; nil: the node doesn't have it.
func (s *server) describeLocked(ss *session, n *node, attribute ua.AttributeID) any {
	switch attribute {
	case ua.AttributeIDNodeID:
		return n.id()
	case ua.AttributeIDNodeClass:
		return int32(n.class)
	case ua.AttributeIDBrowseName:
		return &ua.QualifiedName{NamespaceIndex: n.browseNS, Name: n.browse}
	case ua.AttributeIDDisplayName:
		return ua.NewLocalizedText(n.browse)
	case ua.AttributeIDDescription:
		if n.isTopic() {
			return ua.NewLocalizedText(n.name.text)
		}
		return &ua.LocalizedText{}
	case ua.AttributeIDWriteMask, ua.AttributeIDUserWriteMask:
		return uint32(0)
	}
	switch n.class {
	case ua.NodeClassObject:
		if attribute == ua.AttributeIDEventNotifier {
			return byte(0)
		}
	case ua.NodeClassVariable:
		return s.describeVariableLocked(ss, n, attribute)
	case ua.NodeClassVariableType:
		switch attribute {
		case ua.AttributeIDDataType:
			return ua.NewTwoByteNodeID(id.BaseDataType)
		case ua.AttributeIDValueRank:
			return int32(-2)
		case ua.AttributeIDIsAbstract:
			return n.abstract
		}
	case ua.NodeClassReferenceType:
		switch attribute {
		case ua.AttributeIDIsAbstract:
			return n.abstract
		case ua.AttributeIDSymmetric:
			return false
		case ua.AttributeIDInverseName:
			return &ua.LocalizedText{}
		}
	case ua.NodeClassObjectType, ua.NodeClassDataType:
		if attribute == ua.AttributeIDIsAbstract {
			return n.abstract
		}
	}
	return nil
}

func (s *server) describeVariableLocked(ss *session, n *node, attribute ua.AttributeID) any {
	switch attribute {
	case ua.AttributeIDDataType:
		if n.isTopic() {
			return ua.NewNumericNodeID(0, dataTypeOf(n.value))
		}
		return ua.NewNumericNodeID(0, n.dataType)
	case ua.AttributeIDValueRank:
		return n.rank
	case ua.AttributeIDArrayDimensions:
		if n.rank > 0 {
			return []uint32{0}
		}
	case ua.AttributeIDAccessLevel:
		if n.isTopic() {
			return accessRead | accessWrite
		}
		return accessRead
	case ua.AttributeIDUserAccessLevel:
		if !n.isTopic() {
			return accessRead
		}
		level := byte(0)
		if ss.rights[question{n.name.text, false}].allowed {
			level |= accessRead
		}
		if ss.rights[question{n.name.text, true}].allowed {
			level |= accessWrite
		}
		return level
	case ua.AttributeIDMinimumSamplingInterval:
		return 0.0
	case ua.AttributeIDHistorizing:
		return false
	}
	return nil
}

// writeNodes publishes values. [OPC 10000-4, 5.10.4]
func (s *server) writeNodes(c *channel, ss *session, q *ua.WriteRequest) (ua.Response, error) {
	if err := several(len(q.NodesToWrite)); err != nil {
		return nil, err
	}
	r := &ua.WriteResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	for _, w := range q.NodesToWrite {
		c.began.Store(time.Now().UnixNano()) // the parent may take its time for each
		status, err := s.writeNode(ss, w)
		if err != nil {
			return nil, err
		}
		r.Results = append(r.Results, status)
	}
	return r, nil
}

func (s *server) writeNode(ss *session, w *ua.WriteValue) (ua.StatusCode, error) {
	s.mu.Lock()
	n, handle, over := s.mu.space.find(w.NodeID), ss.handle, ss.over
	s.mu.Unlock()
	switch {
	case over:
		return 0, ua.StatusBadSessionClosed
	case n == nil:
		return ua.StatusBadNodeIDUnknown, nil
	case w.AttributeID < ua.AttributeIDNodeID || w.AttributeID > ua.AttributeIDAccessLevelEx:
		return ua.StatusBadAttributeIDInvalid, nil
	case !n.isTopic() || w.AttributeID != ua.AttributeIDValue:
		return ua.StatusBadNotWritable, nil
	case w.IndexRange != "":
		return ua.StatusBadWriteNotSupported, nil
	case w.Value == nil || w.Value.EncodingMask&ua.DataValueStatusCode != 0 && w.Value.Status != ua.StatusOK:
		return ua.StatusBadWriteNotSupported, nil
	}
	payload, text, ok := payloadOf(w.Value.Value)
	if !ok {
		s.refuse(refusedValue)
		return ua.StatusBadTypeMismatch, nil
	}
	var refusal Refusal
	if err := s.call("Publish", &Writing{Handle: handle, Topic: n.name.text, Payload: payload, Text: text}, &refusal); err != nil {
		return 0, err
	}
	switch refusal {
	case refusalEnded:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.endLocked(ss)
		return 0, ua.StatusBadSessionClosed
	case refusalNotAuthorized:
		s.refuse(refusedNotAuthorized)
	}
	return refusal.status(ua.StatusBadUserAccessDenied), nil
}
