package loadtest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// presets are the built-in scenarios. Those of EMQ's public suite have its names; see [Preset].
var presets = []Scenario{
	{Name: "connects", Shape: Connects, Connections: 5000},
	{Name: "idle", Shape: Idle, Connections: 5000, Filters: 1},
	{Name: "p2p", Shape: P2P, Pairs: 500, QoS: 1},
	{Name: "fan-in", Shape: FanIn, Publishers: 500, Subscribers: 1, QoS: 1, Window: 4},
	{Name: "fan-out", Shape: FanOut, Publishers: 1, Subscribers: 1000, QoS: 1},
	{Name: "shared", Shape: Shared, Publishers: 100, Subscribers: 10, QoS: 1, Window: 8},
	{Name: "retained", Shape: Retained, Topics: 1000, Subscribers: 10, QoS: 1},
	{Name: "offline", Shape: Offline, Pairs: 100, QoS: 1, Rate: 5000, Duration: 5 * time.Second},
	{Name: "takeover", Shape: Takeover, Connections: 500},
	{Name: "http", Shape: P2P, Pairs: 100, QoS: 1, Window: 1, PublishURL: "http://127.0.0.1:8080/publish"},
	{Name: "webhook", Shape: P2P, Pairs: 100, QoS: 1, Rate: 1000, Webhook: "127.0.0.1:9100"},
	{Name: "mixed", Shape: Mixed, Parts: []*Scenario{
		{Name: "idle", Shape: Idle, Connections: 1000, Filters: 1},
		{Name: "telemetry", Shape: FanIn, Publishers: 500, Subscribers: 2, QoS: 1, Rate: 5000},
		{Name: "commands", Shape: P2P, Pairs: 200, QoS: 1, Rate: 1000, Durable: true},
		{Name: "broadcast", Shape: FanOut, Publishers: 1, Subscribers: 500, Rate: 10},
		{Name: "workers", Shape: Shared, Publishers: 100, Subscribers: 10, QoS: 1, Rate: 2000},
		{Name: "visitors", Shape: Connects, Connections: 50, ConnectRate: 50},
	}},

	{Name: "conn-tcp-1M-5K", Shape: Idle, Connections: 1_000_000, ConnectRate: 5000, Duration: 30 * time.Minute},
	{Name: "fanout-5-1000-5-250K", Shape: FanOut, Publishers: 5, Subscribers: 1000, QoS: 1, Payload: 16, Rate: 250, Duration: 30 * time.Minute},
	{Name: "p2p-50K-50K-50K-50K", Shape: P2P, Pairs: 50_000, QoS: 1, Payload: 16, Rate: 50_000, ConnectRate: 5000, Duration: 30 * time.Minute},
	{Name: "sharedsub-50K-500-50K-50K", Shape: Shared, Publishers: 50_000, Subscribers: 500, QoS: 1, Payload: 16, Rate: 50_000, ConnectRate: 5000, Duration: 30 * time.Minute},
}

// Preset returns the built-in scenario of that name, without a target. The last four are those of EMQ's public suite (QoS 1,
// 16 bytes, Keep Alive 300 s): 1M connections at 5K a second; 5 publishers whose 250 messages a second go to 1000 subscribers each;
// 50K publishers and as many subscribers with 50K messages a second; 50K publishers with 50K messages a second for one shared
// subscription of 500. Scale makes them fit a smaller machine.
func Preset(name string) (*Scenario, error) {
	i := slices.IndexFunc(presets, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%w: no preset %q: there are %s", ErrScenario, name, strings.Join(PresetNames(), ", "))
	}
	return presets[i].Clone(), nil
}

// PresetNames returns the names of all presets.
func PresetNames() []string {
	names := make([]string, len(presets))
	for i := range presets {
		names[i] = presets[i].Name
	}
	return names
}
