package capacity_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"loopmq/loadtest"
	"loopmq/loadtest/capacity"
)

// run is a Result with a value for each figure.
func run() *loadtest.Result {
	r := &loadtest.Result{
		Scenario: &loadtest.Scenario{Parts: []*loadtest.Scenario{{Rate: 300}, {Rate: 700}}},
		Seconds:  10,
		Rates:    loadtest.Rates{Sent: 995},
		Latencies: map[string]*loadtest.Latency{
			loadtest.Deliver:    {Count: 9, P50: 1000, P90: 2000, P99: 3000, P999: 4000, Max: 5000, Mean: 1500},
			loadtest.PublishAck: {Count: 9, P99: 700, Max: 918_552.575},
			loadtest.Connect:    {Count: 9, Max: 9000},
		},
		Errors: []loadtest.ErrorGroup{{What: "reset", Count: 2}, {What: "refused", Count: 3}},
		Broker: &loadtest.BrokerUse{CPUSeconds: 25, ResidentBytesMax: 1 << 30},
	}
	r.Audit.QoS[1].Promised = loadtest.Tally{Expected: 900, Lost: 1, Duplicated: 2}
	r.Audit.QoS[0].MayDrop = loadtest.Tally{Expected: 100, Lost: 4, Reordered: 6}
	return r
}

func TestSLO(t *testing.T) {
	for _, test := range []struct{ slo, missed string }{
		{"p50<2ms", ""},
		{"p50<1ms", "p50<1ms: 1ms"},
		{"p50<=1ms", ""},
		{"ack.max<1us", "ack.max<1us: 919ms"},
		{" p99 < 3ms ", "p99 < 3ms: 3ms"},
		{"p90<1ms,mean<1ms,deliver.p99.9<1ms,max>5ms", "p90<1ms: 2ms; mean<1ms: 1.5ms; deliver.p99.9<1ms: 4ms; max>5ms: 5ms"},
		{"ack.p99<1ms,connect.max<8ms", "connect.max<8ms: 9ms"},
		{"loss=0", "loss=0: 5"},
		{"loss<0.5%", "loss<0.5%: 0.5%"},
		{"loss<=0.5%,duplicates==2,reordered<7", ""},
		{"errors=0", "errors=0: 5"},
		{"errors<6,rate>=1000", "rate>=1000: 995"},
		{"rate>=99.6%", "rate>=99.6%: 99.5%"},
		{"cpu<2", "cpu<2: 2.5"},
		{"memory<1GiB", "memory<1GiB: 1.0 GiB"},
		{"memory<2GB,cpu<=2.5", ""},
	} {
		slo, err := capacity.ParseSLO(test.slo)
		if err != nil {
			t.Errorf("%s: %v", test.slo, err)
			continue
		}
		if got := strings.Join(slo.Violations(run()), "; "); got != test.missed {
			t.Errorf("%s: got %q, want %q", test.slo, got, test.missed)
		}
	}
}

func TestSLOWithoutMeasurement(t *testing.T) {
	slo, err := capacity.ParseSLO("p99<20ms,loss=0%,cpu<1,memory<1GiB,connect.p99<1s,errors=0,loss=0")
	if err != nil {
		t.Fatal(err)
	}
	got := slo.Violations(&loadtest.Result{Interrupted: true, Latencies: map[string]*loadtest.Latency{loadtest.Connect: {}}})
	want := []string{
		"the run was interrupted", "p99<20ms: not measured", "loss=0%: not measured", "cpu<1: not measured",
		"memory<1GiB: not measured", "connect.p99<1s: not measured", "rate>=99%: not measured",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := slo.Violations(nil); len(got) != 1 {
		t.Errorf("without a result: %q", got)
	}
}

// Who says nothing of the rate wants it to be reached.
func TestSLORate(t *testing.T) {
	slo, err := capacity.ParseSLO("p99<20ms")
	if err != nil || slo.String() != "p99<20ms,rate>=99%" {
		t.Fatalf("got %s (%v)", slo, err)
	}
	r := run()
	r.Rates.Sent = 900
	if got := slo.Violations(r); !slices.Equal(got, []string{"rate>=99%: 90%"}) {
		t.Errorf("got %q", got)
	}
}

// A scenario without messages has a rate of connects.
func TestSLORateOfConnects(t *testing.T) {
	slo, err := capacity.ParseSLO("rate>=99%,rate>900")
	if err != nil {
		t.Fatal(err)
	}
	r := run()
	r.Scenario = &loadtest.Scenario{Shape: loadtest.Connects, ConnectRate: 1000}
	r.Rates, r.Totals = loadtest.Rates{Connects: 950}, loadtest.Totals{Connects: 950}
	if got := slo.Violations(r); !slices.Equal(got, []string{"rate>=99%: 95%"}) {
		t.Errorf("got %q", got)
	}
	r.Totals.Gone = 3
	if got := slo.Violations(r); !slices.Equal(got, []string{"3 clients were lost for good", "rate>=99%: 95%"}) {
		t.Errorf("a run that lost clients: got %q", got)
	}
}

func TestParseSLOErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "FIGURE<VALUE",
		"p99":                            "FIGURE<VALUE",
		"p99<20ms,":                      "FIGURE<VALUE",
		"p98<20ms":                       `figure "p98": allowed: p50, p90`,
		"p99=<20ms":                      "=<",
		"p99<20":                         "a duration",
		"p99<-1s":                        "a duration",
		"loss=x":                         "a number",
		"loss=-1":                        "a number",
		"loss=NaN":                       "a number",
		"errors<1%":                      "no share",
		"cpu<80%":                        "no share",
		"memory<1parsec":                 "a size",
		strings.Repeat("p99<20ms,", 500): "4096",
	} {
		if _, err := capacity.ParseSLO(text); !errors.Is(err, capacity.ErrSearch) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want an error with %q", text, err, want)
		}
	}
}

// FuzzParseSLO holds what is read to being read again, and to being applied.
func FuzzParseSLO(f *testing.F) {
	for _, text := range []string{"p99<20ms,loss=0", "loss<0.1%,cpu<=2", "memory>1GiB,rate>=1e3", "connect.p99.9==1s", "<", "p99<=>1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		slo, err := capacity.ParseSLO(text)
		if err != nil {
			return
		}
		again, err := capacity.ParseSLO(slo.String())
		if err != nil || again.String() != slo.String() {
			t.Fatalf("%q was read as %q, and that as %q (%v)", text, slo, again, err)
		}
		if len(slo.Violations(run())) > len(slo) {
			t.Fatalf("%q has more violations than objectives", text)
		}
	})
}
