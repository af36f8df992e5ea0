package loadtest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"loopmq/loadtest"
)

// TestHTTP: what is published by HTTP reaches MQTT subscribers, what is published by MQTT reaches webhooks, and the audit is that of MQTT.
func TestHTTP(t *testing.T) {
	t.Parallel()
	webhook := address()
	b, http := loopmq(t, fmt.Sprintf(`webhooks:
  - name: loadtest
    url: http://%s/
    events: [message.published]
    topic_filters: [hooks/#]
    order: topic
    allow_private: true
`, webhook))
	publish := "http://" + http + "/publish"
	for _, s := range []loadtest.Scenario{
		{Name: "publish", Shape: loadtest.P2P, Pairs: 10, QoS: 1, Window: 1, PublishURL: publish},
		{Name: "publish QoS 0", Shape: loadtest.FanIn, Publishers: 10, Subscribers: 1, Rate: 200, PublishURL: publish, Version: 5},
		{Name: "webhook", Topic: "hooks/{run}", Shape: loadtest.P2P, Pairs: 10, QoS: 1, Rate: 200, Webhook: webhook},
		{Name: "both", Topic: "hooks/{run}", Shape: loadtest.FanIn, Publishers: 10, Subscribers: 1, QoS: 1, Rate: 200, Webhook: webhook, PublishURL: publish},
	} {
		t.Run(s.Name, func(t *testing.T) {
			s.Targets, s.Duration, s.Drain = []string{"tcp://" + b.addr}, 300*time.Millisecond, 20*time.Second
			r := run(t, &s)
			promised, may := r.Audit.Promised(), r.Audit.MayDrop()
			if !promised.Clean() || !may.Clean() || promised.Expected+may.Expected == 0 || len(r.Errors) > 0 {
				t.Errorf("audit %+v", r.Audit)
			}
			if r.Totals.Sent > 0 && r.Latencies[loadtest.Deliver] == nil {
				t.Error("no latencies")
			}
		})
	}
	// What the broker refuses is an error with its reason, and nothing was promised.
	s := &loadtest.Scenario{
		Shape: loadtest.P2P, Pairs: 2, QoS: 1, Rate: 20, Targets: []string{"tcp://" + b.addr}, Duration: 300 * time.Millisecond, Drain: time.Second,
		PublishURL: "http://" + http + "/nowhere",
	}
	r := run(t, s)
	if r.Broken() || r.Totals.Acknowledged > 0 || !strings.Contains(fmt.Sprint(r.Errors), "publish by HTTP: 404 Not Found") {
		t.Errorf("audit %+v, errors %+v", r.Audit, r.Errors)
	}
}

// TestHTTPScenarios: what can't be by HTTP is an error of the scenario.
func TestHTTPScenarios(t *testing.T) {
	t.Parallel()
	for _, s := range []loadtest.Scenario{
		{Shape: loadtest.P2P, Pairs: 1, PublishURL: "tcp://127.0.0.1:1883"},
		{Shape: loadtest.P2P, Pairs: 1, QoS: 2, PublishURL: "http://127.0.0.1:8080/publish"},
		{Shape: loadtest.Idle, Connections: 1, PublishURL: "http://127.0.0.1:8080/publish"},
		{Shape: loadtest.P2P, Pairs: 1, Webhook: "9100"},
		{Shape: loadtest.FanIn, Publishers: 1, Subscribers: 2, Webhook: "127.0.0.1:9100"},
		{Shape: loadtest.P2P, Pairs: 2, Webhook: "127.0.0.1:9100", Share: loadtest.Share{Of: 2, Run: "a"}},
	} {
		s.Targets = []string{"tcp://127.0.0.1:1883"}
		if err := s.Check(); err == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
