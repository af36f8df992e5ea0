package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq/loadtest"
)

var rewrite = flag.Bool("rewrite", false, "write the files of testdata instead of comparing them")

// question is that of the newcomer.
func question() Question {
	q := Default()
	q.Devices, q.Rate, q.Payload, q.QoS = 3e6, 200e3, 128, 1
	return q
}

func ask(t *testing.T, q Question, c Costs) Answer {
	t.Helper()
	a, err := Ask(q, c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// part is what the answer says of a node, or nil.
func part(parts []Part, name string) *Part {
	i := slices.IndexFunc(parts, func(p Part) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &parts[i]
}

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-9*math.Abs(want) }

// A plan that can be computed by hand: 4 nodes of which 1 is gone.
func TestAskByHand(t *testing.T) {
	c := Costs{
		Message: Cost{Value: 20}, Forward: Cost{Value: 6}, Ping: Cost{Value: 9}, Connect: Cost{Value: 100},
		Connection: Cost{Value: 1000}, Socket: Cost{Value: 4000}, Route: Cost{Value: 300}, Process: Cost{Value: 1e8},
		RedisStored: Cost{Value: 5}, RedisForwarded: Cost{Value: 3}, RedisSession: Cost{Value: 800}, RedisEntry: Cost{Value: 100},
	}
	q := question()
	q.Durable, q.Queued, q.Free, q.Sockets = 0.25, 1e6, 0.4, 1e6
	a := ask(t, q, c)
	if a.Clusters != 1 || a.Nodes != 4 || a.NodesInAll() != 4 || a.Decides != "connections of nodes" {
		t.Fatalf("%d clusters of %d nodes, for %s", a.Clusters, a.Nodes, a.Decides)
	}
	const segment = 66
	publish := 3.0 + 2 + 32 + 2 + 128
	for name, want := range map[string]float64{
		"CPU":         (200e3*20 + 200e3*2/3*6 + 3e6/300*9 + 3e6/4/60*100) / 3 / 1e6,
		"memory":      1e6*1000 + 1e6*4000 + 2e6*300 + 1e8,
		"connections": 1e6,
		"network in":  8 * (200e3*(publish+segment) + 200e3*(4+segment) + 3e6/300*(2+segment) + 200e3*2/3*publish + 50e3*publish) / 3,
		"network out": 8 * (200e3*(publish+segment) + 200e3*(4+segment) + 3e6/300*(2+segment) + 200e3*2/3*publish + 50e3*publish) / 3,
	} {
		if got := part(a.Node, name); got == nil || !near(got.Used, want) {
			t.Errorf("%s: got %+v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]float64{
		"CPU":    (50e3*5 + 200e3*3/4*0.75*3) / 1e6,
		"memory": 3e6*800 + 1e6*(publish+100),
	} {
		if got := part(a.Redis, name); got == nil || !near(got.Used, want) {
			t.Errorf("%s of Redis: got %+v, want %v", name, got, want)
		}
	}
}

// The bytes of packets are those of the standard.
func TestMessageBytes(t *testing.T) {
	for _, test := range []struct {
		payload int
		qos     byte
		want    float64
	}{
		{0, 0, 2 + 2 + 10},
		{0, 2, 2 + 2 + 10 + 2},
		{115, 0, 2 + 127},
		{116, 0, 3 + 128},
		{114, 1, 3 + 128},
		{16371, 0, 3 + 16383},
		{16372, 0, 4 + 16384},
		{2097139, 0, 4 + 2097151},
		{2097140, 0, 5 + 2097152},
		{200 << 20, 0, 5 + 12 + 200<<20},
	} {
		l := load{Question: Question{Payload: test.payload, QoS: test.qos, Topic: 10}}
		if got := l.message(); got != test.want {
			t.Errorf("payload %d at QoS %d: got %v, want %v", test.payload, test.qos, got, test.want)
		}
	}
	// QoS 2 has PUBREC and PUBCOMP back, and PUBREL forth.
	l := newLoad(Question{Devices: 1, Rate: 1, FanOut: 3, QoS: 2, Topic: 1, KeepAlive: time.Hour, TLS: true}, Costs{}, 1)
	in, out := l.wire()
	const around = 66 + 22
	publish, ack, ping := 2.0+2+1+2+around, 4.0+around, (2.0+around)/3600
	if want := publish + ack + 3*2*ack + ping; !near(in, want) {
		t.Errorf("in: got %v, want %v", in, want)
	}
	if want := 3*(publish+ack) + 2*ack + ping; !near(out, want) {
		t.Errorf("out: got %v, want %v", out, want)
	}
}

// Whatever is asked, the answer holds, and one node less, or the same with fewer clusters, does not.
func TestAnswersHoldAndAreTheFewest(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	power := func(low, high float64) float64 { return math.Pow(10, low+(high-low)*random.Float64()) }
	answered := 0
	for range 500 {
		q := Default()
		q.Devices, q.Rate, q.FanOut = power(0, 8), power(-1, 7), power(-1, 2)
		q.QoS, q.Durable, q.Payload = byte(random.IntN(3)), random.Float64(), random.IntN(5000)
		q.Queued, q.Cores, q.Spare, q.Free = power(0, 9), power(0, 2), random.IntN(3), random.Float64()*0.8
		q.TLS = random.IntN(2) == 0
		c := assumed(q)
		a, err := Ask(q, c)
		if errors.Is(err, ErrTooSmall) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		answered++
		l := newLoad(q, c, a.Clusters)
		if tight := over(a.Node, 1-q.Free); tight != "" {
			t.Errorf("%+v: too little %s", q, tight)
		}
		if tight := over(a.Redis, 1-q.Free); tight != "" {
			t.Errorf("%+v: too little %s of Redis", q, tight)
		}
		if n := a.Nodes - q.Spare - 1; n > 0 && over(l.node(n), 1-q.Free) == "" {
			t.Errorf("%+v: %d nodes, but %d would do", q, a.Nodes, a.Nodes-1)
		}
		if a.Clusters > 1 && a.Clusters < 20 {
			fewer := newLoad(q, c, a.Clusters-1)
			if n, _ := fewer.fewest(); n > 0 && (n+q.Spare == 1 || over(fewer.redis(n+q.Spare), 1-q.Free) == "") {
				t.Errorf("%+v: %d clusters, but %d would do", q, a.Clusters, a.Clusters-1)
			}
		}
	}
	if answered < 250 {
		t.Errorf("only %d of 500 questions had an answer", answered)
	}
}

func TestAskEdges(t *testing.T) {
	q := question()
	q.Devices, q.Rate, q.Spare = 1000, 100, 0
	if a := ask(t, q, assumed(q)); a.NodesInAll() != 1 || a.Redis != nil || !strings.Contains(a.Summary(), "without Redis") {
		t.Errorf("%d nodes, Redis %v: %s", a.NodesInAll(), a.Redis, a.Summary())
	}
	q.Spare = 2
	if a := ask(t, q, assumed(q)); a.Nodes != 3 || a.Redis == nil {
		t.Errorf("with 2 spare: %d nodes, Redis %v", a.Nodes, a.Redis)
	}
	q = question()
	q.Durable, q.Rate = 1, 2e6
	if a := ask(t, q, assumed(q)); a.Clusters < 20 || a.Decides != "CPU of Redis" || !strings.Contains(strings.Join(a.Assumptions, "\n"), "one Redis") {
		t.Errorf("%d clusters, for %s", a.Clusters, a.Decides)
	}
	q.Devices, q.Memory, q.Free = 1e12, 256<<20, 0.9
	if _, err := Ask(q, assumed(q)); !errors.Is(err, ErrTooSmall) || !strings.Contains(err.Error(), "memory of nodes") {
		t.Errorf("got %v", err)
	}
}

func TestQuestionErrors(t *testing.T) {
	if _, err := Ask(Question{FanOut: math.NaN()}, Costs{}); !errors.Is(err, ErrQuestion) {
		t.Error(err)
	} else {
		for _, name := range []string{"devices 0", "fan-out NaN", "topic 0", "keep alive", "reconnect", "cores 0", "memory 0", "network 0", "sockets 0", "redis memory 0"} {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("no %q in %v", name, err)
			}
		}
	}
	if err := question().Check(); err != nil {
		t.Error(err)
	}
}

// result is one that measured messages.
func result(qos byte, connections int, rate, micros float64) *loadtest.Result {
	return &loadtest.Result{
		Scenario: &loadtest.Scenario{Shape: loadtest.P2P, QoS: qos, Targets: []string{"tcp://a:1883"}},
		Totals:   loadtest.Totals{Sent: 1000, Expected: 1000, Delivered: 1000, Connects: uint64(connections)},
		Rates:    loadtest.Rates{Sent: rate, Delivered: rate},
		Cost:     loadtest.Cost{BrokerMicrosPerMessage: micros},
		Timeline: []loadtest.Second{{Connections: connections / 2}, {Connections: connections}},
		Broker:   &loadtest.BrokerUse{BytesPerConnection: 2000},
	}
}

func TestCostsFromResults(t *testing.T) {
	q := question() // 0.13 messages/s in and out of each device
	sparse, dense, other := result(1, 10_000, 1000, 30), result(1, 1000, 500_000, 1), result(0, 10_000, 700, 9)
	connects := result(1, 50, 0, 130)
	connects.Totals = loadtest.Totals{Connects: 5000}
	idle := result(0, 2000, 0, 0)
	idle.Scenario.Shape = loadtest.Idle
	idle.Totals, idle.Broker.BytesPerConnection = loadtest.Totals{Connects: 20_000}, 1500
	names := []string{"sparse", "dense", "other", "connects", "idle"}
	c, warnings := CostsFrom(q, names, []*loadtest.Result{sparse, dense, other, connects, idle})
	for _, test := range []struct {
		cost   Cost
		value  float64
		source string
	}{
		{c.Message, 30, "measured: sparse"},
		{c.Connect, 130, "measured: connects"},
		{c.Connection, 1500, "measured: idle"},
		{c.Forward, 6, "assumed: about a commit on Redis and a message"},
	} {
		if test.cost.Value != test.value || test.cost.Source != test.source || test.cost.Measured != strings.HasPrefix(test.source, "measured") {
			t.Errorf("got %+v, want %v, %s", test.cost, test.value, test.source)
		}
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestCostsWarnings(t *testing.T) {
	broken := result(2, 100, 1000, 50)
	broken.Scenario.Rate = 2000
	broken.Audit.QoS[2].Promised.Lost, broken.Interrupted = 1, true
	several := result(1, 10_000, 1000, 30)
	several.Scenario.Targets = append(several.Scenario.Targets, "tcp://b:1883")
	durable := result(1, 10_000, 1000, 30)
	durable.Scenario.Durable = true
	mixed := result(0, 10_000, 1000, 30)
	mixed.Scenario.Parts = []*loadtest.Scenario{{QoS: 1}}
	for _, test := range []struct {
		name    string
		durable float64
		results []*loadtest.Result
		message float64
		want    []string
	}{
		{"nothing", 0, nil, lone[1], []string{"no result has the CPU"}},
		{"dense", 0, []*loadtest.Result{result(1, 1000, 500_000, 1)}, lone[1], []string{"times as many messages per connection"}},
		{"dense and dear", 0, []*loadtest.Result{result(1, 1000, 500_000, 50)}, 50, nil},
		{"broken", 0, []*loadtest.Result{broken}, 50, []string{"QoS 2, not 1", "memory of 1,000", "broke a promise", "only 50 % of its rate", "interrupted"}},
		{"several nodes", 0, []*loadtest.Result{several}, 30, nil},
		{"not durable", 0.5, []*loadtest.Result{result(1, 10_000, 1000, 30)}, 31, nil},
		{"durable", 1, []*loadtest.Result{durable}, 30, nil},
		{"mixed", 0, []*loadtest.Result{mixed}, 30, nil},
		{"without scenario", 0, []*loadtest.Result{{}}, lone[1], []string{"no result has the CPU", "memory of 1,000"}},
	} {
		q := question()
		q.Durable = test.durable
		c, warnings := CostsFrom(q, []string{"x"}, test.results)
		if !near(c.Message.Value, test.message) {
			t.Errorf("%s: %+v, want %v", test.name, c.Message, test.message)
		}
		if len(warnings) != len(test.want) {
			t.Errorf("%s: warnings %q, want %q", test.name, warnings, test.want)
			continue
		}
		for i, w := range warnings {
			if !strings.Contains(w, test.want[i]) {
				t.Errorf("%s: warning %q, want %q", test.name, w, test.want[i])
			}
		}
	}
	if c, _ := CostsFrom(question(), []string{"x"}, []*loadtest.Result{several}); c.Forward.Value != 0 || !c.Forward.Measured {
		t.Errorf("on several nodes: %+v", c.Forward)
	}
}

func TestWriteText(t *testing.T) {
	for name, change := range map[string]func(*Question){
		"assumed.txt": func(*Question) {},
		"durable.txt": func(q *Question) { q.Durable, q.Queued, q.TLS, q.FanOut, q.Rate = 1, 50e6, true, 2.5, 400e3 },
		"one.txt":     func(q *Question) { q.Devices, q.Rate, q.Spare = 5000, 500, 0 },
	} {
		q := question()
		change(&q)
		c, warnings := CostsFrom(q, nil, nil)
		a := ask(t, q, c)
		a.Warnings = append(warnings, a.Warnings...)
		var b bytes.Buffer
		if err := a.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name)
		if *rewrite {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("got\n%s\nwant that of %s (go test ./loadtest/plan -rewrite, and look)\n%s", b.String(), path, want)
		}
		for _, cost := range a.Costs.list() {
			if !strings.Contains(b.String(), cost.Source) {
				t.Errorf("%s doesn't say where %q is from", name, cost.Name)
			}
		}
	}
}

func TestWriteJSON(t *testing.T) {
	a := ask(t, question(), assumed(question()))
	var b bytes.Buffer
	a.Costs.Message.durable = false
	if err := a.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var again Answer
	if err := json.Unmarshal(b.Bytes(), &again); err != nil || !reflect.DeepEqual(a, again) {
		t.Errorf("got %+v (%v), want %+v", again, err, a)
	}
}

// The list of costs is all of them.
func TestCostsAreListed(t *testing.T) {
	var c Costs
	if got, want := len(c.list()), reflect.TypeFor[Costs]().NumField(); got != want {
		t.Errorf("%d of %d", got, want)
	}
}

func TestParseCount(t *testing.T) {
	for text, want := range map[string]float64{"3M": 3e6, "200k": 2e5, "200K": 2e5, "1.5G": 1.5e9, "2B": 2e9, "128": 128, "1e6": 1e6, "0": 0, "0.5": 0.5} {
		if got, err := ParseCount(text); err != nil || got != want {
			t.Errorf("%s: got %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1", "NaN", "Inf", "3m", "3 M", "1e15k", "x"} {
		if got, err := ParseCount(text); !errors.Is(err, ErrQuestion) {
			t.Errorf("%q: got %v (%v)", text, got, err)
		}
	}
}

func FuzzParseCount(f *testing.F) {
	f.Add("3M")
	f.Add("1e15k")
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := ParseCount(text); err == nil && !(v >= 0 && v <= 1e15) {
			t.Errorf("%q is %v", text, v)
		}
	})
}
