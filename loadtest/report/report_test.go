package report

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/HdrHistogram/hdrhistogram-go"
	nethtml "golang.org/x/net/html"

	"loopmq/loadtest"
)

var rewrite = flag.Bool("rewrite", false, "write the files of testdata instead of comparing them")

// latency is a distribution around typical nanoseconds with a long tail.
func latency(t *testing.T, typical int64) *loadtest.Latency {
	t.Helper()
	h := hdrhistogram.New(1000, int64(time.Hour), 3)
	for i := range int64(100_000) {
		if err := h.RecordValue(typical + int64(float64(typical)*math.Pow(float64(i)/100_000, 9)*20)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := loadtest.NewLatency(h)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sample is a result that has everything.
func sample(t *testing.T) *loadtest.Result {
	t.Helper()
	r := &loadtest.Result{
		Version: loadtest.ResultVersion,
		Scenario: &loadtest.Scenario{
			Name: "p2p", Shape: loadtest.P2P, Pairs: 500, QoS: 1, Payload: 64, Rate: 10_000, Version: 4,
			Targets: []string{"tcp://127.0.0.1:1883"}, Duration: 30 * time.Second, User: "u", Password: "secret-word",
		},
		Machine:   loadtest.Machine{Host: "bench-1", CPU: "AMD EPYC", Cores: 2, Memory: 24 << 30, Kernel: "6.18", Go: "go1.26.8", Load: "0.1 0.2 0.3"},
		Started:   time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC),
		Seconds:   30,
		Processes: 1,
		Phases:    []loadtest.Phase{{Name: "connect", At: 0, Seconds: 1.5}, {Name: "warm_up", At: 1.5, Seconds: 2}, {Name: "measure", At: 3.5, Seconds: 30}},
		Totals:    loadtest.Totals{Sent: 300_000, Acknowledged: 299_990, Expected: 300_000, Delivered: 299_999, Connects: 1000, BytesOut: 25_000_000, BytesIn: 24_000_000},
		Rates:     loadtest.Rates{Sent: 10_000, Acknowledged: 9999.67, Delivered: 9999.97},
		Cost: loadtest.Cost{
			CPUSeconds: 6, MicrosPerMessage: 20.123, Calls: 600_000, CallsPerMessage: 2, BrokerCPUSeconds: 9, BrokerMicrosPerMessage: 30.04,
		},
		Latencies: map[string]*loadtest.Latency{
			loadtest.Deliver: latency(t, 300_000), loadtest.PublishAck: latency(t, 200_000), loadtest.Connect: latency(t, 900_000),
		},
		Errors: []loadtest.ErrorGroup{{What: "connection ended", Count: 3, Example: "EOF <b>\x1b[31m"}},
		Broker: &loadtest.BrokerUse{CPUSeconds: 9, ResidentBytesBefore: 20 << 20, ResidentBytesMax: 45 << 20, ResidentBytesEnd: 44 << 20, BytesPerConnection: 1290},
	}
	for i := range 34 {
		f := float64(i)
		r.Timeline = append(r.Timeline, loadtest.Second{
			At: f + 1, Seconds: 1, Phase: "measure", Sent: 10_000 + 50*math.Sin(f), Delivered: 9990 + 40*math.Cos(f), Acknowledged: 9990, Connects: max(0, 700-300*f),
			Errors: max(0, 3*(f-31)), Connections: 1000, DeliverP50: 300 + 20*math.Sin(f), DeliverP99: 3000 + 900*math.Cos(f*f), PublishAckP50: 200, PublishAckP99: 1900,
			GeneratorCPU: 0.2, BrokerCPU: 0.3 + 0.02*math.Sin(f), BrokerMemory: 20<<20 + uint64(i)<<20,
		})
	}
	r.Audit.QoS[1] = loadtest.AuditQoS{Promised: loadtest.Tally{Expected: 299_990}, MayDrop: loadtest.Tally{Expected: 10, Lost: 1}}
	return r
}

func html(t *testing.T, r *loadtest.Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func text(t *testing.T, r *loadtest.Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := Text(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant that of %s (go test ./loadtest/report -rewrite, and look)\n%s", got, path, want)
	}
}

func TestText(t *testing.T) {
	golden(t, "report.txt", text(t, sample(t)))
}

// Of a result that has nothing there is a report, too.
func TestEmptyResult(t *testing.T) {
	golden(t, "empty.txt", text(t, &loadtest.Result{}))
	if page := html(t, &loadtest.Result{}); !strings.Contains(page, "ok: nothing was promised") || strings.Contains(page, "<svg") {
		t.Errorf("got %s", page)
	}
}

func TestTextOfABrokenPromise(t *testing.T) {
	r := sample(t)
	r.Audit.QoS[1].Promised = loadtest.Tally{Expected: 100, Lost: 1, Duplicated: 2, Reordered: 3, Corrupted: 4}
	r.Audit.QoS[2].Promised = loadtest.Tally{Expected: 50, Lost: 7}
	r.Interrupted, r.Processes = true, 3
	r.Hosts = []loadtest.Machine{{Host: "one"}, {Host: "two"}}
	got := text(t, r)
	for _, want := range []string{
		"BROKEN: of 150 promised messages 8 lost, 2 duplicated, 3 reordered, 4 corrupted\n", "by 3 processes; INTERRUPTED", "\none: ", "\ntwo: ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	page := html(t, r)
	for _, want := range []string{`<p class="verdict broken">BROKEN: of 150`, "by 3 processes; INTERRUPTED", ">one: "} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
}

// A broker whose memory shrank says nothing of connections.
func TestShrunkMemory(t *testing.T) {
	r := sample(t)
	r.Broker.BytesPerConnection = -3645
	var b bytes.Buffer
	if err := Compare(&b, []string{"a", "b"}, []*loadtest.Result{r, r}); err != nil {
		t.Fatal(err)
	}
	if both := text(t, r) + b.String(); strings.Contains(both, "3,645") {
		t.Error(both)
	}
}

func TestScenarioLines(t *testing.T) {
	for _, name := range loadtest.PresetNames() {
		s, err := loadtest.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		s.Targets = []string{"tcp://127.0.0.1:1883"}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", name, Scenario(s))
	}
	for want, s := range map[string]*loadtest.Scenario{
		"an unknown scenario": nil,
		"1 pair, QoS 2, 16 bytes, 8 in flight each, MQTT 5.0, durable sessions": {
			Shape: loadtest.Offline, Pairs: 1, QoS: 2, Payload: 16, Window: 8, Version: 5, Durable: true,
		},
		"1,000,000 idle connections, MQTT 3.1, 5,000 connects/s, at tls://a:1, ?[31mb": {
			Shape: loadtest.Idle, Connections: 1_000_000, ConnectRate: 5000, Version: 3, Targets: []string{"tls://a:1", "\x1b[31mb"},
		},
		"2 scenarios at once, x (5 publishers to 1 subscriber of 1 shared subscription, QoS 0, 1 byte, 10 messages/s, MQTT 3.1.1), " +
			"y (3 retained messages to 2 subscribers, QoS 0, 0 bytes, 0 in flight each, MQTT 3.1.1)": {
			Shape: loadtest.Mixed, Parts: []*loadtest.Scenario{
				{Name: "x", Shape: loadtest.Shared, Publishers: 5, Subscribers: 1, Groups: 1, Payload: 1, Rate: 10},
				{Name: "y", Shape: loadtest.Retained, Topics: 3, Subscribers: 2},
			},
		},
	} {
		if got := Scenario(s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// leading are attributes that lead elsewhere.
var leading = []string{"src", "href", "srcset", "action", "data", "xlink:href"}

// check parses a page and complains of what isn't its own.
func check(t *testing.T, page string) (elements map[string]int) {
	t.Helper()
	elements = map[string]int{}
	root, err := nethtml.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		if n.Type != nethtml.ElementNode {
			continue
		}
		elements[n.Data]++
		for _, a := range n.Attr {
			if slices.Contains(leading, a.Key) || strings.HasPrefix(a.Key, "on") || strings.Contains(a.Val, "url(") || strings.Contains(a.Val, "NaN") {
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
		}
	}
	for _, name := range []string{"script", "img", "link", "iframe", "object", "b"} {
		if elements[name] > 0 {
			t.Errorf("there is a <%s>", name)
		}
	}
	return elements
}

func TestHTML(t *testing.T) {
	page := html(t, sample(t))
	elements := check(t, page)
	if elements["svg"] != 7 || elements["table"] != 5 {
		t.Errorf("%d charts and %d tables", elements["svg"], elements["table"])
	}
	for _, want := range []string{
		"<title>p2p: load test</title>", ">Rate<", ">Latency<", ">Latency by percentile<", ">Memory of the broker<", ">CPU<", ">Connections<", ">Errors<",
		">99.9 %<", ">measure<", "299,990", "pairs: 500", "EOF &lt;b&gt;",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if strings.Contains(page, "secret-word") {
		t.Error("the page has the password")
	}
}

// Results are files: nothing in them becomes markup.
func TestHTMLOfAHostileResult(t *testing.T) {
	const evil = `</title></svg></pre><script>alert(1)</script><img src=x onerror=alert(1)>`
	r := sample(t)
	r.Scenario.Name, r.Scenario.Targets, r.Scenario.Topic = evil, []string{evil}, evil
	r.Machine = loadtest.Machine{Host: evil, CPU: evil, Kernel: evil, Go: evil, Load: evil}
	r.Phases[0].Name, r.Timeline[0].Phase = evil, evil
	r.Errors = []loadtest.ErrorGroup{{What: evil, Count: 1, Example: evil}}
	r.Timeline[0].At = math.MaxFloat64
	r.Timeline[1].At, r.Timeline[2].Sent = -1, -5
	check(t, html(t, r))
	if got := text(t, r); strings.ContainsAny(got, "\x1b\r") {
		t.Errorf("%q", got)
	}
}

func TestHTMLOfABadHistogram(t *testing.T) {
	r := sample(t)
	r.Latencies[loadtest.Deliver].HDR = "AAAA"
	if err := HTML(io.Discard, r); !errors.Is(err, loadtest.ErrResult) {
		t.Errorf("got %v", err)
	}
}

// The percentile curve says what the histogram does.
func TestCurve(t *testing.T) {
	h := hdrhistogram.New(1000, int64(time.Hour), 3)
	for i := range int64(1000) {
		if err := h.RecordValue((i + 1) * 1000); err != nil {
			t.Fatal(err)
		}
	}
	points := curve(h)
	for _, p := range points {
		if want := 1000 * (1 - 1/p.X); math.Abs(p.Y-want) > 1+want/500 {
			t.Errorf("at %v: got %v µs, want %v", percentile(p.X), p.Y, want)
		}
	}
	if last := points[len(points)-1]; last.X < 900 || last.X > 1000 {
		t.Errorf("the curve ends at %v", last.X)
	}
	for x, want := range map[float64]string{1: "0 %", 2: "50 %", 10: "90 %", 100: "99 %", 1000: "99.9 %", 1e5: "99.999 %", 20: "95.0 %", 300: "99.7 %"} {
		if got := percentile(x); got != want {
			t.Errorf("percentile(%v) is %q, want %q", x, got, want)
		}
	}
}

func TestCompare(t *testing.T) {
	a, b, c := sample(t), sample(t), sample(t)
	b.Rates.Sent, b.Cost.BrokerMicrosPerMessage, b.Latencies[loadtest.Deliver] = 5000, 15.02, latency(t, 600_000)
	b.Interrupted, b.Machine.Cores = true, 64
	c.Scenario.QoS, c.Scenario.Name, c.Scenario.Targets = 2, "other", nil
	c.Broker, c.Latencies, c.Rates.Acknowledged = nil, nil, 0
	c.Audit.QoS[2].Promised = loadtest.Tally{Expected: 10, Lost: 5}
	var out bytes.Buffer
	if err := Compare(&out, []string{"a.json", "b.json", "c\x1b.json"}, []*loadtest.Result{a, b, c}); err != nil {
		t.Fatal(err)
	}
	golden(t, "compare.txt", out.String())
}

// Two runs of the same scenario under another name, elsewhere and longer are comparable.
func TestCompareTheSame(t *testing.T) {
	a, b := sample(t), sample(t)
	b.Scenario.Name, b.Scenario.Targets, b.Scenario.Duration, b.Machine.Host = "again", []string{"tcp://b:1"}, time.Hour, "other"
	var out bytes.Buffer
	if err := Compare(&out, []string{"a", "b"}, []*loadtest.Result{a, b}); err != nil || strings.Contains(out.String(), "NOTE") {
		t.Errorf("got %s (%v)", out.String(), err)
	}
	if err := Compare(&out, []string{"a", "b"}, []*loadtest.Result{{}, {}}); err != nil {
		t.Error(err)
	}
}

// A line a second where it is no terminal; at a terminal one picture, which is erased before the next and at the end.
func TestLive(t *testing.T) {
	r := sample(t)
	r.Timeline[0].Phase = "warm_up\x1b"
	r.Timeline[1].BrokerMemory, r.Timeline[1].DeliverP99 = 0, 0
	var lines, picture bytes.Buffer
	plain, drawn := NewLive(&lines, nil, 4*time.Second), NewLive(&picture, func() int { return 60 }, 4*time.Second)
	for _, s := range r.Timeline[:5] {
		plain.Second(s)
		drawn.Second(s)
	}
	plain.End()
	drawn.End()
	golden(t, "lines.txt", lines.String())
	golden(t, "picture.txt", strings.ReplaceAll(picture.String(), "\x1b", "ESC"))
	for line := range strings.Lines(picture.String()) {
		if n := utf8.RuneCountInString(line); !strings.Contains(line, "\x1b") && n > 60 {
			t.Errorf("a line of %d columns", n)
		}
	}
	for range 100 {
		drawn.Second(r.Timeline[9])
	}
	if len(drawn.rates) != sparks {
		t.Errorf("it remembers %d seconds", len(drawn.rates))
	}
}

func TestNumbers(t *testing.T) {
	for got, want := range map[string]string{
		number(0): "0", number(12.3456): "12.3", number(99.96): "100", number(1234567.4): "1,234,567", number(math.NaN()): "-", number(-5000): "-5,000",
		micros(0): "0 µs", micros(12.345): "12.3 µs", micros(999.6): "1 ms", micros(12345): "12.3 ms", micros(2e6): "2 s", micros(1.5e10): "15000 s",
		micros(math.Inf(1)): "-", counted(math.MaxUint64): "9,223,372,036,854,775,807",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
