package opcuaserver

import (
	"bytes"
	"math"
	"slices"

	"github.com/gopcua/opcua/ua"
)

// overflow is in the status of a value before which others were dropped. [OPC 10000-4, 7.39.1]
const overflow = ua.StatusCode(0x480)

// item watches a variable for a subscription. The server's lock guards it.
type item struct {
	id     uint32
	sub    *subscription
	what   *ua.ReadValueID
	node   *node
	handle uint32
	mode   ua.MonitoringMode
	stamps ua.TimestampsToReturn

	size          int
	discardOldest bool
	trigger       ua.DataChangeTrigger
	deadband      float64

	queue   []*ua.DataValue
	isReady bool
	last    *ua.DataValue // that it was offered, and took
	denied  bool
}

// parameters fits what a client asks for into bounds.
func (s *server) parameters(it *item, p *ua.MonitoringParameters) ua.StatusCode {
	trigger, deadband := ua.DataChangeTriggerStatusValue, 0.0
	if p.Filter != nil && p.Filter.EncodingMask != ua.ExtensionObjectEmpty {
		f, ok := p.Filter.Value.(*ua.DataChangeFilter)
		switch {
		case !ok:
			return ua.StatusBadMonitoredItemFilterUnsupported
		case it.what.AttributeID != ua.AttributeIDValue:
			return ua.StatusBadFilterNotAllowed
		case f.Trigger > ua.DataChangeTriggerStatusValueTimestamp || f.DeadbandType > 2:
			return ua.StatusBadMonitoredItemFilterInvalid
		case f.DeadbandType == 2: // percent of an EURange, which no topic has
			return ua.StatusBadMonitoredItemFilterUnsupported
		case f.DeadbandType == 1 && (!(f.DeadbandValue >= 0) || math.IsInf(f.DeadbandValue, 0)):
			return ua.StatusBadDeadbandFilterInvalid
		}
		if trigger = f.Trigger; f.DeadbandType == 1 {
			deadband = f.DeadbandValue
		}
	}
	it.trigger, it.deadband, it.handle, it.discardOldest = trigger, deadband, p.ClientHandle, p.DiscardOldest
	it.size = int(min(max(p.QueueSize, 1), uint32(s.setup.Queue)))
	return ua.StatusOK
}

// createMonitoredItems begins to watch. [OPC 10000-4, 5.12.2]
func (s *server) createMonitoredItems(ss *session, q *ua.CreateMonitoredItemsRequest) (ua.Response, error) {
	if err := several(len(q.ItemsToCreate)); err != nil {
		return nil, err
	}
	if !validStamps(q.TimestampsToReturn) {
		return nil, ua.StatusBadTimestampsToReturnInvalid
	}
	err := s.learn(ss, s.topics(func(yield func(*ua.NodeID) bool) {
		for _, c := range q.ItemsToCreate {
			if c.ItemToMonitor.AttributeID == ua.AttributeIDValue && !yield(c.ItemToMonitor.NodeID) {
				return
			}
		}
	}), false)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := ss.subscriptionLocked(q.SubscriptionID)
	if err != nil {
		return nil, err
	}
	r := &ua.CreateMonitoredItemsResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	for _, c := range q.ItemsToCreate {
		r.Results = append(r.Results, s.createItemLocked(sub, c, q.TimestampsToReturn))
	}
	return r, nil
}

func (s *server) createItemLocked(sub *subscription, c *ua.MonitoredItemCreateRequest, stamps ua.TimestampsToReturn) *ua.MonitoredItemCreateResult {
	it := &item{sub: sub, what: c.ItemToMonitor, mode: c.MonitoringMode, stamps: stamps}
	refused := func(status ua.StatusCode) *ua.MonitoredItemCreateResult {
		return &ua.MonitoredItemCreateResult{StatusCode: status, FilterResult: ua.NewExtensionObject(nil)}
	}
	if it.node = s.mu.space.find(it.what.NodeID); it.node == nil {
		return refused(ua.StatusBadNodeIDUnknown)
	}
	if it.mode > ua.MonitoringModeReporting {
		return refused(ua.StatusBadMonitoringModeInvalid)
	}
	v := s.attributeLocked(sub.session, it.what)
	switch v.Status {
	case ua.StatusBadAttributeIDInvalid, ua.StatusBadUserAccessDenied, ua.StatusBadDataEncodingUnsupported, ua.StatusBadDataEncodingInvalid, ua.StatusBadIndexRangeNoData:
		return refused(v.Status)
	}
	if status := s.parameters(it, c.RequestedParameters); status != ua.StatusOK {
		return refused(status)
	}
	if s.mu.items >= s.setup.Items {
		s.refuse(refusedItems)
		return refused(ua.StatusBadTooManyMonitoredItems)
	}
	s.mu.lastItem++
	it.id = s.mu.lastItem
	s.mu.items++
	sub.items[it.id] = it
	if it.what.AttributeID == ua.AttributeIDValue {
		if it.node.items == nil {
			it.node.items = make(map[*item]struct{})
		}
		it.node.items[it] = struct{}{}
	}
	s.offerLocked(it, v)
	return &ua.MonitoredItemCreateResult{MonitoredItemID: it.id, RevisedQueueSize: uint32(it.size), FilterResult: ua.NewExtensionObject(nil)}
}

// offerLocked gives an item the value that it watches.
func (s *server) offerLocked(it *item, v *ua.DataValue) {
	if it.mode == ua.MonitoringModeDisabled || it.last != nil && !it.changed(v) {
		return
	}
	it.last = v
	if full := len(it.queue) >= it.size; full || s.mu.queued > s.queueBytes() {
		// However little room there is, the newest value of each item has some.
		for n := it.size; len(it.queue) > 0 && (len(it.queue) >= n || s.mu.queued > s.queueBytes()); {
			if !it.discardOldest && full {
				s.mu.queued -= bytesOf(it.queue[len(it.queue)-1])
				it.queue = it.queue[:len(it.queue)-1]
				if it.size > 1 {
					v = overflown(v)
				}
				break
			}
			s.takeLocked(it)
		}
		if it.discardOldest && it.size > 1 {
			if len(it.queue) > 0 {
				it.queue[0] = overflown(it.queue[0])
			} else {
				v = overflown(v)
			}
		}
	}
	it.queue = append(it.queue, v)
	s.mu.queued += bytesOf(v)
	it.announceLocked()
}

// queueBytes bounds all values that wait.
func (s *server) queueBytes() int { return int(s.setup.MemoryBytes / 4) }

func overflown(v *ua.DataValue) *ua.DataValue {
	own := *v
	own.EncodingMask |= ua.DataValueStatusCode
	own.Status |= overflow
	return &own
}

// takeLocked takes the first value of the queue away.
func (s *server) takeLocked(it *item) {
	s.mu.queued -= bytesOf(it.queue[0])
	if it.queue = it.queue[1:]; len(it.queue) == 0 {
		it.queue = nil
	}
}

// announceLocked has the subscription tell of an item.
func (it *item) announceLocked() {
	if it.mode == ua.MonitoringModeReporting && !it.isReady && len(it.queue) > 0 {
		it.isReady = true
		it.sub.ready = append(it.sub.ready, it)
	}
}

// unreadyLocked is the opposite of announceLocked.
func (s *server) unreadyLocked(it *item) {
	if it.isReady {
		it.isReady = false
		i := slices.Index(it.sub.ready, it)
		it.sub.ready = slices.Delete(it.sub.ready, i, i+1)
	}
}

// changed reports whether a value is another one, as the filter sees it. [OPC 10000-4, 7.22.2]
func (it *item) changed(v *ua.DataValue) bool {
	if v.Status != it.last.Status {
		return true
	}
	switch {
	case it.trigger == ua.DataChangeTriggerStatus:
		return false
	case it.trigger == ua.DataChangeTriggerStatusValueTimestamp && !v.SourceTimestamp.Equal(it.last.SourceTimestamp):
		return true
	}
	if it.deadband > 0 {
		a, aOK := numberOf(v)
		if b, bOK := numberOf(it.last); aOK && bOK {
			return math.Abs(a-b) > it.deadband
		}
	}
	return !sameValue(v.Value, it.last.Value)
}

func sameValue(a, b *ua.Variant) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Type() != b.Type() {
		return false
	}
	switch x := a.Value().(type) {
	case bool, int64, float64, string:
		return x == b.Value()
	case []byte:
		y, _ := b.Value().([]byte)
		return bytes.Equal(x, y)
	}
	return false
}

// dropLocked ends an item.
func (s *server) dropLocked(it *item) {
	for len(it.queue) > 0 {
		s.takeLocked(it)
	}
	s.unreadyLocked(it)
	if delete(it.node.items, it); it.node.gone && len(it.node.items) == 0 {
		s.mu.space.remove(it.node)
	}
	delete(it.sub.items, it.id)
	s.mu.items--
}

func (s *server) modifyMonitoredItems(ss *session, q *ua.ModifyMonitoredItemsRequest) (ua.Response, error) {
	if err := several(len(q.ItemsToModify)); err != nil {
		return nil, err
	}
	if !validStamps(q.TimestampsToReturn) {
		return nil, ua.StatusBadTimestampsToReturnInvalid
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := ss.subscriptionLocked(q.SubscriptionID)
	if err != nil {
		return nil, err
	}
	r := &ua.ModifyMonitoredItemsResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK)}
	for _, m := range q.ItemsToModify {
		result := &ua.MonitoredItemModifyResult{StatusCode: ua.StatusBadMonitoredItemIDInvalid, FilterResult: ua.NewExtensionObject(nil)}
		if it := sub.items[m.MonitoredItemID]; it != nil {
			if result.StatusCode = s.parameters(it, m.RequestedParameters); result.StatusCode == ua.StatusOK {
				it.stamps, result.RevisedQueueSize = q.TimestampsToReturn, uint32(it.size)
				for len(it.queue) > it.size {
					s.takeLocked(it)
				}
			}
		}
		r.Results = append(r.Results, result)
	}
	return r, nil
}

// eachItem does something to items of a subscription, by their ids.
func (s *server) eachItem(ss *session, subscription uint32, ids []uint32, do func(*item)) (results []ua.StatusCode, err error) {
	if err := several(len(ids)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := ss.subscriptionLocked(subscription)
	if err != nil {
		return nil, err
	}
	for _, i := range ids {
		it, status := sub.items[i], ua.StatusOK
		if it == nil {
			status = ua.StatusBadMonitoredItemIDInvalid
		} else {
			do(it)
		}
		results = append(results, status)
	}
	return results, nil
}

func (s *server) setMonitoringMode(ss *session, q *ua.SetMonitoringModeRequest) (ua.Response, error) {
	if q.MonitoringMode > ua.MonitoringModeReporting {
		return nil, ua.StatusBadMonitoringModeInvalid
	}
	results, err := s.eachItem(ss, q.SubscriptionID, q.MonitoredItemIDs, func(it *item) { s.setModeLocked(it, q.MonitoringMode) })
	return &ua.SetMonitoringModeResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), Results: results}, err
}

func (s *server) setModeLocked(it *item, mode ua.MonitoringMode) {
	before := it.mode
	it.mode = mode
	if mode != ua.MonitoringModeReporting {
		s.unreadyLocked(it)
	}
	switch {
	case mode == ua.MonitoringModeDisabled:
		for len(it.queue) > 0 {
			s.takeLocked(it)
		}
		it.last = nil
	case before == ua.MonitoringModeDisabled && !it.denied:
		s.offerLocked(it, s.attributeLocked(it.sub.session, it.what))
	default:
		it.announceLocked()
	}
}

func (s *server) deleteMonitoredItems(ss *session, q *ua.DeleteMonitoredItemsRequest) (ua.Response, error) {
	results, err := s.eachItem(ss, q.SubscriptionID, q.MonitoredItemIDs, s.dropLocked)
	return &ua.DeleteMonitoredItemsResponse{ResponseHeader: responseHeader(q.RequestHeader, ua.StatusOK), Results: results}, err
}
