package loadtest

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestPresets(t *testing.T) {
	for _, name := range PresetNames() {
		for _, factor := range []float64{0.001, 1} {
			s, err := Preset(name)
			if err != nil {
				t.Fatal(err)
			}
			s.Targets = []string{"tcp://127.0.0.1"}
			s.Scale(factor)
			if err := s.Check(); err != nil {
				t.Errorf("%s × %v: %v", name, factor, err)
			}
		}
	}
	if _, err := Preset("nothing"); !errors.Is(err, ErrScenario) || !strings.Contains(err.Error(), "p2p-50K-50K-50K-50K") {
		t.Errorf("got %v, want an error that lists presets", err)
	}
}

// TestSuite holds the presets of EMQ's suite to what their names say.
func TestSuite(t *testing.T) {
	for name, want := range map[string]Scenario{
		"conn-tcp-1M-5K":            {Shape: Idle, Connections: 1_000_000, ConnectRate: 5000},
		"fanout-5-1000-5-250K":      {Shape: FanOut, Publishers: 5, Subscribers: 1000, QoS: 1, Payload: 16, Rate: 250},
		"p2p-50K-50K-50K-50K":       {Shape: P2P, Pairs: 50_000, QoS: 1, Payload: 16, Rate: 50_000},
		"sharedsub-50K-500-50K-50K": {Shape: Shared, Publishers: 50_000, Subscribers: 500, QoS: 1, Payload: 16, Rate: 50_000},
	} {
		s, err := Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		s.Targets = []string{"tcp://127.0.0.1"}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		if s.KeepAlive != 300*time.Second {
			t.Errorf("%s: Keep Alive is %v", name, s.KeepAlive)
		}
		got := Scenario{Shape: s.Shape, Pairs: s.Pairs, Publishers: s.Publishers, Subscribers: s.Subscribers, Connections: s.Connections, QoS: s.QoS, Rate: s.Rate}
		if s.Shape == Idle {
			got.ConnectRate = s.ConnectRate
		} else {
			got.Payload = s.Payload
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestScale(t *testing.T) {
	s := &Scenario{Shape: Mixed, Parts: []*Scenario{{Pairs: 10, Rate: 100, ConnectRate: 10, Groups: 3, Subscribers: 1}}}
	s.Scale(0.25)
	if p := s.Parts[0]; p.Pairs != 3 || p.Rate != 25 || p.ConnectRate != 2.5 || p.Groups != 3 || p.Subscribers != 1 || p.Publishers != 0 {
		t.Errorf("got %+v", p)
	}
}

func TestLoadScenario(t *testing.T) {
	const text = `
name: night
shape: mixed
targets: [tcp://a:1883, wss://b/path]
rate: 0
duration: 1m30s
reconnect_jitter: 250ms
tls: {ca: ca.pem}
kill:
- {after: 2s, command: "true"}
parts:
- {shape: p2p, pairs: 3, qos: 2, durable: true}
- {shape: idle, connections: 5}
`
	s, err := LoadScenario(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	part := s.Parts[0]
	if s.Duration != 90*time.Second || part.Duration != s.Duration || part.Pairs != 3 || part.QoS != 2 || !part.Durable || !part.Reconnect ||
		part.ReconnectJitter != 250*time.Millisecond || part.TLS.CAFile != "ca.pem" || part.Name != "0-p2p" || part.Window != 32 {
		t.Errorf("got %+v, %+v", s, part)
	}

	var again bytes.Buffer
	if err := s.WriteYAML(&again); err != nil {
		t.Fatal(err)
	}
	s2, err := LoadScenario(&again)
	if err != nil {
		t.Fatalf("%v in\n%s", err, again.String())
	}
	if !reflect.DeepEqual(s, s2) {
		t.Errorf("wrote and read: got %+v, want %+v", s2, s)
	}
	if c := s.Clone(); !reflect.DeepEqual(c, s) {
		t.Errorf("cloned: got %+v, want %+v", c, s)
	} else if c.Parts[0].Pairs = 7; s.Parts[0].Pairs != 3 {
		t.Error("a clone shares its parts")
	}

	for _, bad := range []string{"shape: p2p\npears: 3\n", "shape: [", "pairs: many\n", strings.Repeat("#", scenarioBytesMax+1)} {
		if _, err := LoadScenario(strings.NewReader(bad)); !errors.Is(err, ErrScenario) {
			t.Errorf("%.20q: got %v, want ErrScenario", bad, err)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		want   string
		change func(*Scenario)
	}{
		{"shape", func(s *Scenario) { s.Shape = "star" }},
		{"needs pairs", func(s *Scenario) { s.Pairs = 0 }},
		{"needs publishers", func(s *Scenario) { s.Shape = FanIn }},
		{"needs topics", func(s *Scenario) { s.Shape = Retained }},
		{"needs connections", func(s *Scenario) { s.Shape = Takeover }},
		{"groups", func(s *Scenario) { s.Shape, s.Publishers, s.Subscribers, s.Groups = Shared, 1, 2, 3 }},
		{"audit can follow", func(s *Scenario) { s.Shape, s.Publishers, s.Subscribers = FanIn, 1_000_000, 1000 }},
		{"qos", func(s *Scenario) { s.QoS = 3 }},
		{"version", func(s *Scenario) { s.Version = 6 }},
		{"payload", func(s *Scenario) { s.Payload = 15 }},
		{"rate", func(s *Scenario) { s.Rate = -1 }},
		{"rate", func(s *Scenario) { s.Rate = math.NaN() }},
		{"rate", func(s *Scenario) { s.Rate = 1e18 }},
		{"rate", func(s *Scenario) { s.ConnectRate = math.Inf(1) }},
		{"window", func(s *Scenario) { s.Window = 70_000 }},
		{"keep_alive", func(s *Scenario) { s.KeepAlive = time.Millisecond }},
		{"offline needs", func(s *Scenario) { s.Shape = Offline }},
		{"below 0", func(s *Scenario) { s.Drain = -1 }},
		{"topic", func(s *Scenario) { s.Topic = "a/#" }},
		{"password needs", func(s *Scenario) { s.Password = "x" }},
		{"cert and key", func(s *Scenario) { s.TLS.CertFile = "x" }},
		{"share", func(s *Scenario) { s.Share = Share{Index: 2, Of: 2, Run: "x"} }},
		{"several processes", func(s *Scenario) {
			s.Shape, s.Publishers, s.Subscribers, s.Share = FanIn, 1, 1, Share{Of: 2, Run: "x"}
		}},
		{"no target", func(s *Scenario) { s.Targets = nil }},
		{"target", func(s *Scenario) { s.Targets = []string{"http://x"} }},
		{"target", func(s *Scenario) { s.Targets = []string{"tcp://x/path"} }},
		{"target", func(s *Scenario) { s.Targets = []string{"tcp://x:99999"} }},
		{"target", func(s *Scenario) { s.Targets = []string{"://"} }},
		{"source", func(s *Scenario) { s.Sources = []string{"localhost"} }},
		{"kill", func(s *Scenario) { s.Kill = []Kill{{}} }},
		{"with parts", func(s *Scenario) { s.Shape = Mixed }},
		{"can't be mixed", func(s *Scenario) { s.Shape, s.Parts = Mixed, []*Scenario{{Shape: Mixed}} }},
		{"can't be offline", func(s *Scenario) { s.Shape, s.Parts = Mixed, []*Scenario{{Shape: Offline, Pairs: 1, QoS: 1}} }},
	} {
		s := &Scenario{Shape: P2P, Pairs: 1, Targets: []string{"tcp://127.0.0.1"}}
		test.change(s)
		if err := s.Check(); !errors.Is(err, ErrScenario) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want something about %q", err, test.want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]target{
		"tcp://h":                {address: "h:1883", host: "h"},
		"mqtt://h:1/":            {address: "h:1", host: "h"},
		"mqtts://[::1]":          {address: "[::1]:8883", host: "::1", tls: true},
		"ws://h":                 {address: "h:80", host: "h", path: "/mqtt", ws: true},
		"wss://h:444/a/b?token=": {address: "h:444", host: "h", path: "/a/b?token=", ws: true, tls: true},
	} {
		if got, err := parseTarget(text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
}

// TestSplit has every client in one process, pairs together.
func TestSplit(t *testing.T) {
	s := &Scenario{Shape: P2P, Pairs: 10}
	seen := 0
	for i, part := range s.Split(3, "run") {
		if part.Share != (Share{Index: i, Of: 3, Run: "run"}) {
			t.Errorf("part %d has share %+v", i, part.Share)
		}
		for n := range s.Pairs {
			if part.Share.has(n) {
				seen++
			}
		}
	}
	if seen != s.Pairs {
		t.Errorf("%d pairs in all parts, want %d", seen, s.Pairs)
	}
}

func FuzzScenario(f *testing.F) {
	f.Add("shape: p2p\npairs: 1\ntargets: [tcp://a]\n")
	f.Add("shape: mixed\nparts: [{shape: idle, connections: 1}]\nkill: [{after: 1s, command: x}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := LoadScenario(strings.NewReader(text))
		if err != nil {
			return
		}
		if s.Check() != nil {
			return
		}
		if err := s.Check(); err != nil {
			t.Errorf("what was right is wrong the second time: %v", err)
		}
	})
}
