package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"loopmq/internal/brokertest"
	"loopmq/internal/meddler"
	"loopmq/loadtest"
	"loopmq/loadtest/capacity"
	"loopmq/loadtest/plan"
)

// loadtestCommand runs a command line and returns what it wrote.
func loadtestCommand(t *testing.T, wantExit int, args ...string) (stdout, stderr string) {
	t.Helper()
	return commandUntil(t, t.Context(), wantExit, args...)
}

func commandUntil(t *testing.T, ctx context.Context, wantExit int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(ctx, args, &out, &errs); got != wantExit {
		t.Fatalf("loadtest %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, wantExit, &out, &errs)
	}
	return out.String(), errs.String()
}

// resultFile writes a result of a measurement.
func resultFile(t *testing.T, name string, change func(*loadtest.Result)) string {
	t.Helper()
	h := hdrhistogram.New(1000, int64(time.Hour), 3)
	if err := h.RecordValue(int64(3 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	l, err := loadtest.NewLatency(h)
	if err != nil {
		t.Fatal(err)
	}
	r := &loadtest.Result{
		Version:   loadtest.ResultVersion,
		Scenario:  &loadtest.Scenario{Name: name, Shape: loadtest.P2P, Pairs: 500, QoS: 1, Payload: 64, Rate: 1000, Password: "secret-word"},
		Seconds:   10,
		Totals:    loadtest.Totals{Sent: 10_000, Expected: 10_000, Delivered: 10_000},
		Rates:     loadtest.Rates{Sent: 1000, Delivered: 1000},
		Cost:      loadtest.Cost{BrokerMicrosPerMessage: 25},
		Latencies: map[string]*loadtest.Latency{loadtest.Deliver: l},
		Timeline:  []loadtest.Second{{At: 1, Connections: 10_000, Sent: 1000, Phase: "measure"}},
		Broker:    &loadtest.BrokerUse{BytesPerConnection: 1234},
	}
	if change != nil {
		change(r)
	}
	path := filepath.Join(t.TempDir(), name+".json")
	if err := writeFile(path, nil, r.WriteJSON); err != nil {
		t.Fatal(err)
	}
	return path
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestUsage(t *testing.T) {
	out, _ := loadtestCommand(t, exitOK, "help")
	if out != usage {
		t.Errorf("got %q", out)
	}
	for name := range commands {
		contains(t, out, "loadtest "+name)
	}
	for name, text := range map[string]string{"plan": planUsage, "compare": compareUsage, "report": reportUsage, "presets": presetsUsage} {
		for _, flag := range []string{"--help", "-h"} {
			if out, _ := loadtestCommand(t, exitOK, name, flag); out != text {
				t.Errorf("%s %s: got %q", name, flag, out)
			}
		}
	}
	for _, name := range []string{"run", "capacity"} {
		_, errs := loadtestCommand(t, exitOK, name, "--help")
		contains(t, errs, "usage: loadtest "+name+" PRESET|FILE [flags]", "-metrics", "-html")
	}
	_, errs := loadtestCommand(t, exitUsage)
	contains(t, errs, usage)
	_, errs = loadtestCommand(t, exitUsage, "jump")
	contains(t, errs, `no command "jump"`)
	out, _ = loadtestCommand(t, exitOK, "--version")
	contains(t, out, "loadtest dev go")
}

// metricsOf serves the metrics of a broker.
func metricsOf(t *testing.T, b *brokertest.Server) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret-word" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		b.Broker.Metrics().WritePrometheus(w)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/metrics"
}

func TestRunShowsWhatItFound(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("secret-word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, page := filepath.Join(dir, "a.json"), filepath.Join(dir, "a.html")
	out, errs := loadtestCommand(t, exitOK, "run", "p2p", "--target", "tcp://"+b.Addr, "--pairs", "5", "--rate", "200", "--duration", "1s",
		"--metrics", metricsOf(t, b), "--metrics-token-file", token, "--json", file, "--html", page)
	contains(t, out, "p2p: 5 pairs, QoS 1", "publish to deliver", "broker ", "ok: ")
	contains(t, errs, "measure", "connections 10", "broker ")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(text), ">Memory of the broker<", ">Latency by percentile<")
	again, _ := loadtestCommand(t, exitOK, "report", file)
	if again != out {
		t.Errorf("the report of the file is\n%s\nand that of the run\n%s", again, out)
	}
	out, _ = loadtestCommand(t, exitOK, "plan", "--devices", "1000", "--rate", "100", "--from", file)
	contains(t, out, "measured: "+file)
}

// A broken promise is exit code 1, and the report and the page say which.
func TestRunOfABrokenBroker(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	p, err := meddler.New(b.Addr, meddler.Plan{Every: 50, Faults: []meddler.Fault{meddler.Drop}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	page := filepath.Join(t.TempDir(), "a.html")
	out, _ := loadtestCommand(t, exitFailed, "run", "p2p", "--target", "tcp://"+p.Addr(), "--pairs", "2", "--rate", "500", "--duration", "1s", "--drain", "4s",
		"--html", page)
	lost := fmt.Sprintf(" promised messages %d lost\n", p.Count(meddler.Drop))
	contains(t, out, "BROKEN: of ", lost)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(text), `verdict broken">BROKEN: of `)
}

// A broker that goes away has broken no promise, but this isn't the run that was asked for.
func TestRunOfABrokerThatEnds(t *testing.T) {
	t.Parallel()
	b, err := brokertest.Run()
	if err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	errs := &untilWriter{text: "measure", then: end}
	var out bytes.Buffer
	if got := run(t.Context(), []string{
		"run", "p2p", "--target", "tcp://" + b.Addr, "--pairs", "2", "--rate", "50", "--duration", "2s", "--drain", "1s",
	}, &out, errs); got != exitFailed {
		t.Errorf("exit code %d", got)
	}
	contains(t, out.String(), "FAILED: 4 clients were lost for good")
}

func TestRunErrors(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"what to run comes first":                 {},
		"no preset":                               {"nothing"},
		"allowed: one of them":                    {"p2p", "--broker-pid", "1", "--metrics", "http://127.0.0.1:1/"},
		"allowed: http://HOST:PORT/metrics":       {"p2p", "--metrics", "127.0.0.1:8081"},
		"no such file":                            {"p2p", "--metrics", "http://127.0.0.1:1/", "--metrics-token-file", "/no/such/file"},
		"one scenario can be run":                 {"p2p", "idle"},
		"--scale NaN: allowed":                    {"p2p", "--scale", "NaN"},
		"--scale 0: allowed":                      {"p2p", "--scale", "0"},
		"rate is NaN":                             {"p2p", "--rate", "NaN"},
		"is named twice":                          {"p2p", "--agents", "127.0.0.1:1,127.0.0.1:1", "--token-file", token},
		"none of tcp://, tls://, ws:// and wss:/": {"p2p", "--target", "ftp://x"},
	} {
		_, errs := loadtestCommand(t, exitUsage, append([]string{"run"}, args...)...)
		contains(t, errs, want)
	}
	b := brokertest.Start(t)
	for _, flag := range []string{"--json", "--html"} { // before anything has run in vain
		out, errs := loadtestCommand(t, exitFailed, "run", "p2p", "--target", "tcp://"+b.Addr, "--pairs", "1", "--rate", "10", "--duration", "200ms",
			flag, "/no/such/directory/a")
		contains(t, errs, "no such file or directory")
		if out != "" {
			t.Errorf("it ran: %s", out)
		}
	}
}

// Ctrl-C ends a run with a report of what was measured.
func TestRunInterrupted(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	errs := &untilWriter{text: "measure", then: cancel}
	var out bytes.Buffer
	if got := run(ctx, []string{"run", "p2p", "--target", "tcp://" + b.Addr, "--pairs", "2", "--rate", "50", "--duration", "10h"}, &out, errs); got != exitOK {
		t.Errorf("exit code %d", got)
	}
	contains(t, out.String(), "INTERRUPTED", "ok: ")
}

// An untilWriter does something once a text was written. One goroutine writes.
type untilWriter struct {
	text string
	then func()
}

func (w *untilWriter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.then()
	}
	return len(b), nil
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t)
	common := []string{"--target", "tcp://" + b.Addr, "--duration", "500ms", "--warm-up", "1ms", "--pause", "0s"}
	file := filepath.Join(t.TempDir(), "a.json")
	out, errs := loadtestCommand(t, exitOK, append([]string{
		"capacity", "p2p", "--pairs", "5", "--slo", "loss=0,rate>=1%", "--start", "100", "--max", "0.2k", "--json", file,
	}, common...)...)
	contains(t, out, "p2p: 5 pairs", "CAPACITY: 200 a second within loss=0,rate>=1% (the highest rate that may be tried holds, 3 trials)")
	contains(t, errs, "  1           100/s  holds\n", "  3           200/s  holds\n")
	results, err := readResults([]string{file})
	if err != nil || results[0].Scenario.Rate != 200 {
		t.Errorf("the result is %+v (%v)", results, err)
	}
	out, errs = loadtestCommand(t, exitFailed, append([]string{"capacity", "p2p", "--pairs", "1", "--slo", "p99<1ns", "--start", "2"}, common...)...)
	contains(t, out, "CAPACITY: none within p99<1ns,rate>=99% (no rate holds, 4 trials)")
	contains(t, errs, "p99<1ns: ", "no rate meets the objectives")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out, _ = commandUntil(t, ctx, exitFailed, append([]string{"capacity", "p2p", "--pairs", "1", "--slo", "p99<1s"}, common...)...)
	contains(t, out, "interrupted, 0 trials")
}

func TestCapacityErrors(t *testing.T) {
	for want, args := range map[string][]string{
		"--slo is missing":   {"p2p"},
		"figure \"p98\"":     {"p2p", "--slo", "p98<1ms"},
		"a number from 0":    {"p2p", "--slo", "p99<1ms", "--start", "x"},
		"such as 0.5 or 50%": {"p2p", "--slo", "p99<1ms", "--precision", "x"},
		"precision 0.0001":   {"p2p", "--slo", "p99<1ms", "--precision", "0.0001"},
		"idle has no rate":   {"idle", "--slo", "p99<1ms"},
	} {
		_, errs := loadtestCommand(t, exitUsage, append([]string{"capacity"}, args...)...)
		contains(t, errs, want)
	}
}

func TestAtRate(t *testing.T) {
	for name, want := range map[string]func(*loadtest.Scenario) bool{
		"p2p":      func(s *loadtest.Scenario) bool { return s.Rate == 4000 && s.Window == 0 },
		"connects": func(s *loadtest.Scenario) bool { return s.ConnectRate == 4000 && s.Rate == 0 },
		"mixed": func(s *loadtest.Scenario) bool {
			return capacity.Asked(s) == 4000 && s.Parts[1].Rate == 5*s.Parts[2].Rate
		},
	} {
		s, err := loadtest.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		before := s.Clone()
		if got, err := atRate(s, 4000); err != nil || !want(got) {
			t.Errorf("%s: got %+v (%v)", name, got, err)
		}
		if !reflect.DeepEqual(s, before) {
			t.Errorf("%s: the scenario has changed", name)
		}
	}
	if _, err := atRate(&loadtest.Scenario{Shape: loadtest.Mixed, Parts: []*loadtest.Scenario{{Shape: loadtest.Idle}}}, 1); err == nil {
		t.Error("a mixed scenario without a rate got one")
	}
}

func TestCompare(t *testing.T) {
	a := resultFile(t, "a", nil)
	b := resultFile(t, "b", func(r *loadtest.Result) { r.Rates.Sent = 500 })
	out, _ := loadtestCommand(t, exitOK, "compare", a, b)
	contains(t, out, "A = "+a, "B ÷ A", "1,000    500  0.500")
	_, errs := loadtestCommand(t, exitUsage, "compare", a)
	contains(t, errs, "1 files: allowed: two and more")
	_, errs = loadtestCommand(t, exitFailed, "compare", a, a+".gone")
	contains(t, errs, "no such file")
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"version":99}`), 0o644); err != nil {
		t.Fatal(err)
	}
	_, errs = loadtestCommand(t, exitFailed, "compare", a, bad)
	contains(t, errs, "bad.json: result: version 99")
}

func TestReport(t *testing.T) {
	a := resultFile(t, "a", nil)
	out, _ := loadtestCommand(t, exitOK, "report", a)
	contains(t, out, "a: 500 pairs", "publish to deliver")
	page := filepath.Join(t.TempDir(), "a.html")
	loadtestCommand(t, exitOK, "report", a, "--html", page)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(text), "<!DOCTYPE html>", "<svg")
	if out, _ := loadtestCommand(t, exitOK, "report", "--html=-", a); out != string(text) {
		t.Error("the page on the standard output is another one")
	}
	loadtestCommand(t, exitUsage, "report")
	loadtestCommand(t, exitUsage, "report", "--jpeg", "x", a)
	_, errs := loadtestCommand(t, exitFailed, "report", "--html", filepath.Join(t.TempDir(), "no", "a.html"), a)
	contains(t, errs, "no such file or directory")
}

func TestPresets(t *testing.T) {
	out, _ := loadtestCommand(t, exitOK, "presets")
	contains(t, out, loadtest.PresetNames()...)
	out, _ = loadtestCommand(t, exitOK, "presets", "p2p")
	s, err := loadtest.LoadScenario(strings.NewReader(out))
	if err != nil || s.Pairs != 500 {
		t.Errorf("%q is read as %+v (%v)", out, s, err)
	}
	loadtestCommand(t, exitUsage, "presets", "nothing")
	loadtestCommand(t, exitUsage, "presets", "p2p", "idle")
}

func TestPlan(t *testing.T) {
	out, _ := loadtestCommand(t, exitOK, "plan", "--devices", "3M", "--rate", "200k", "--payload", "128", "--qos", "1")
	contains(t, out, "3,000,000 devices publish 200,000 messages/s of 128 bytes at QoS 1", "ANSWER: ", "nothing was measured", "Assumptions:")

	a := resultFile(t, "a", nil)
	idle := resultFile(t, "idle", func(r *loadtest.Result) {
		r.Totals, r.Timeline[0].Connections, r.Broker.BytesPerConnection = loadtest.Totals{}, 20_000, 999
	})
	file := filepath.Join(t.TempDir(), "plan.json")
	out, _ = loadtestCommand(t, exitOK, "plan", "--devices=1M", "--rate=50k", "--from", a, "--from", idle, "--cores", "16", "--memory", "32GiB", "--network", "25Gbit/s",
		"--spare", "2", "--head-room", "40%", "--durable", "0.1", "--queued", "1M", "--tls", "--keep-alive", "60s", "--json", file)
	contains(t, out, "measured: "+a, "999 B", "measured: "+idle, "16 cores, 32 GiB and 25 Gbit/s", "40 % of each node", "2 nodes of a cluster", "10 % of deliveries")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out, _ = loadtestCommand(t, exitOK, "plan", "--devices=1M", "--rate=50k", "--from", a, "--from", idle, "--cores", "16", "--memory", "32GiB", "--network", "25G",
		"--spare", "2", "--head-room", "0.4", "--durable", "10%", "--queued", "1000k", "--tls", "--keep-alive", "1m", "--json", "-")
	if out != string(text) {
		t.Errorf("got %s, want %s", out, text)
	}
}

func TestPlanErrors(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"devices 0: allowed":   {"--rate", "1"},
		"such as 500, 200k":    {"--devices", "many"},
		"such as 500 or 50k":   {"--payload", "1.5"},
		"such as 16GiB":        {"--memory", "much"},
		"such as 0.5 or 50%":   {"--head-room", "200%"},
		"flags only":           {"--devices", "1", "x"},
		"0 to 255":             {"--qos", "-1"},
		"qos 3: allowed":       {"--devices", "1", "--qos", "3"},
		"needs an argument":    {"--devices"},
		"not defined":          {"--device", "1"},
		"invalid value \"x\"":  {"--keep-alive", "x"},
		"free 0.95: allowed: ": {"--devices", "1", "--head-room", "95%"},
	} {
		_, errs := loadtestCommand(t, exitUsage, append([]string{"plan"}, args...)...)
		contains(t, errs, want)
	}
	_, errs := loadtestCommand(t, exitFailed, "plan", "--devices", "1", "--from", "/no/such/file")
	contains(t, errs, "no such file")
	_, errs = loadtestCommand(t, exitFailed, "plan", "--devices", "1000G", "--memory", "256MiB")
	contains(t, errs, plan.ErrTooSmall.Error())
}

// Flags may stand anywhere; behind -- there are none.
func TestParse(t *testing.T) {
	flags := newFlags("x")
	n := flags.Int("n", 0, "")
	var names []string
	values(flags, "name", &names)
	rest, err := parse(flags, []string{"a", "--n", "1", "b", "--name", "x", "--name=y", "--", "--n", "c"})
	if err != nil || *n != 1 || strings.Join(rest, " ") != "a b --n c" || strings.Join(names, " ") != "x y" {
		t.Errorf("got %d, %q, %q (%v)", *n, rest, names, err)
	}
}
