package opcuabridge

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
)

// A server forgets a node, and has one with the same id later. Its item is for the first of them only, so there is another one.
func TestNodeComesBack(t *testing.T) {
	t.Parallel()
	f := mustFake(t)
	var back, deleted atomic.Bool
	var created, sequence atomic.Uint32
	f.on("CreateMonitoredItems", func(req ua.Request) any {
		status := ua.StatusOK
		if deleted.Load() && !back.Load() {
			status = ua.StatusBadNodeIDUnknown
			back.Store(true)
		} else {
			created.Add(1)
		}
		res := &ua.CreateMonitoredItemsResponse{}
		for range req.(*ua.CreateMonitoredItemsRequest).ItemsToCreate {
			res.Results = append(res.Results, &ua.MonitoredItemCreateResult{StatusCode: status, MonitoredItemID: 40 + created.Load(), FilterResult: ua.NewExtensionObject(nil)})
		}
		return res
	})
	f.on("DeleteMonitoredItems", func(req ua.Request) any {
		if ids := req.(*ua.DeleteMonitoredItemsRequest).MonitoredItemIDs; !slices.Equal(ids, []uint32{41}) {
			t.Errorf("items %d are deleted, want 41", ids)
		}
		deleted.Store(true)
		return &ua.DeleteMonitoredItemsResponse{Results: []ua.StatusCode{ua.StatusBadMonitoredItemIDInvalid}}
	})
	f.on("Publish", func(ua.Request) any {
		n := sequence.Load() + 1
		switch {
		case n == 1:
			sequence.Store(n)
			return published(notification(n, "first"))
		case n == 2:
			sequence.Store(n)
			m := notification(n, "gone")
			v := m.NotificationData[0].Value.(*ua.DataChangeNotification).MonitoredItems[0].Value
			*v = ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: ua.StatusBadNodeIDInvalid}
			return published(m)
		case n == 3 && created.Load() == 2:
			sequence.Store(n)
			m := notification(n, "second")
			m.NotificationData[0].Value.(*ua.DataChangeNotification).MonitoredItems[0].ClientHandle = 3
			return published(m)
		case n == 3:
			return published(&ua.NotificationMessage{SequenceNumber: n}) // there is nothing to tell
		}
		return silence{}
	})
	s := mustServeFake(t, f, func(e *Endpoint) { e.Rescan = time.Millisecond })
	s.await("first")
	s.await("second")
}
