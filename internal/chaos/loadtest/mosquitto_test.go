package loadtest_test

import (
	"fmt"
	"testing"
	"time"

	"loopmq/loadtest"
)

// TestMosquitto: scenarios are for any broker.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	b := mosquitto(t)
	for _, s := range []loadtest.Scenario{
		{Shape: loadtest.P2P, Pairs: 20, QoS: 1},
		{Shape: loadtest.P2P, Pairs: 20, QoS: 2, Version: 5},
		{Shape: loadtest.FanIn, Publishers: 20, Subscribers: 2, QoS: 1, Rate: 1000},
		{Shape: loadtest.FanOut, Publishers: 2, Subscribers: 20, Rate: 50},
		{Shape: loadtest.Shared, Publishers: 20, Subscribers: 4, Groups: 2, QoS: 1, Rate: 1000, Version: 5},
		{Shape: loadtest.Retained, Topics: 20, Subscribers: 2, QoS: 1},
		{Shape: loadtest.Offline, Pairs: 5, QoS: 2, Rate: 500},
		{Shape: loadtest.Connects, Connections: 20},
		{Shape: loadtest.Takeover, Connections: 10},
		{Shape: loadtest.Idle, Connections: 100, Filters: 3},
	} {
		t.Run(fmt.Sprintf("%s/qos=%d", s.Shape, s.QoS), func(t *testing.T) {
			s.Targets, s.Duration = []string{"tcp://" + b.addr}, 300*time.Millisecond
			r := run(t, &s)
			if r.Broken() || len(r.Errors) > 0 {
				t.Errorf("audit %+v", r.Audit)
			}
			if may := r.Audit.MayDrop(); !may.Clean() {
				t.Errorf("audit %+v", r.Audit)
			}
			if s.QoS > 0 && r.Audit.Promised().Expected == 0 {
				t.Errorf("nothing was promised: totals %+v", r.Totals)
			}
		})
	}
}
