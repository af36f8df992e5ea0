//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"loopmq/benchmarks/process"
)

func TestRunComparesBrokers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	markdown, file := filepath.Join(dir, "out.md"), filepath.Join(dir, "out.json")
	var stdout, stderr bytes.Buffer
	args := []string{
		"--brokers", "", "--rounds", "2", "--seconds", "0.05", "--window", "4", "--only", "^(p2p-qos1|latency-10k)$", "--version", "5",
		"--markdown", markdown, "--json", file, fakeCommand("one", false), fakeCommand("two", false),
	}
	if code := run(t.Context(), args, small(), &stdout, &stderr); code != 0 {
		t.Fatalf("got exit status %d, want 0; stderr:\n%s", code, &stderr)
	}
	order := strings.Index(stderr.String(), "p2p-qos1 1/2 two") < strings.Index(stderr.String(), "p2p-qos1 2/2 one")
	if !order || strings.Count(stderr.String(), "\n") != 8 {
		t.Errorf("the rounds aren't interleaved:\n%s", &stderr)
	}

	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got report
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 4 || got.Rows[0].Broker != "one" || got.Rows[1].Broker != "two" || len(got.Rows[1].Rounds) != 2 {
		t.Fatalf("got rows %+v", got.Rows)
	}
	one, two := got.Rows[0], got.Rows[1]
	if want := one.Median.Value / two.Median.Value; one.Ratio != 0 || two.Ratio != want {
		t.Errorf("got ratios %v and %v, want none and %v", one.Ratio, two.Ratio, want)
	}
	// The fake broker is a process of its own: the round cost it time, and not ours.
	if two.Median.BrokerMicros <= 0 || two.Median.Delivered != two.Rounds[0].Delivered+two.Rounds[1].Delivered {
		t.Errorf("got medians %+v", two.Median)
	}

	text, err := os.ReadFile(markdown)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| p2p-qos1 | two | ", "- one: `env COMPARE_FAKE_PORT={port}", "--rounds 2 --seconds 0.05", " '^(p2p-qos1|latency-10k)$' ", "Linux "} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in the Markdown:\n%s", want, text)
		}
	}
	if !strings.Contains(stdout.String(), "ok ×2") || strings.Count(stdout.String(), "\n") != 5 {
		t.Errorf("got table:\n%s", &stdout)
	}
}

func TestRunFailsWhenAMessageIsLost(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	args := []string{
		"--brokers", "", "--rounds", "1", "--seconds", "0.05", "--only", "^p2p-qos1$", "--markdown", filepath.Join(t.TempDir(), "x"),
		fakeCommand("good", false), fakeCommand("bad", true),
	}
	if code := run(t.Context(), args, small(), &stdout, &stderr); code != 1 {
		t.Errorf("got exit status %d, want 1", code)
	}
	for _, want := range []string{"ok ×1", "FAILED ×1", "FAILED p2p-qos1 bad: QoS 1: of ", "the fake broker listens"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in:\n%s", want, &stdout)
		}
	}
}

func TestRunReportsABrokerThatDoesNotStart(t *testing.T) {
	var stdout, stderr bytes.Buffer
	args := []string{"--brokers", "", "--rounds", "1", "--only", "^idle$", "gone=sh -c 'echo no such thing >&2; exit 3' {port}"}
	if code := run(t.Context(), args, small(), &stdout, &stderr); code != 1 {
		t.Errorf("got exit status %d, want 1", code)
	}
	if got := stdout.String(); !strings.Contains(got, "it ended at once: exit status 3\nno such thing") {
		t.Errorf("got:\n%s", got)
	}
}

func TestRunRefusesWrongCommandLines(t *testing.T) {
	fake := fakeCommand("fake", false)
	for _, c := range []struct {
		want int
		text string
		args []string
	}{
		{2, "flag provided but not defined", []string{"--nonsense"}},
		{0, "scenarios: p2p-qos0", []string{"--help"}},
		{2, "no broker", []string{"--brokers", ""}},
		{2, `no broker "emqx"`, []string{"--brokers", "emqx"}},
		{2, "make build", []string{"--brokers", "loopmq", "--loopmq", "/nonexistent/loopmq"}},
		{2, "isn't NAME=COMMAND", []string{"--brokers", "", "fake"}},
		{2, "isn't NAME=COMMAND", []string{"--brokers", "", "fake=command without the port"}},
		{2, "--only", []string{"--only", "(", fake}},
		{2, "no scenario matches", []string{"--brokers", "", "--only", "nothing", fake}},
		{2, "above 0", []string{"--rounds", "0", fake}},
		{2, "above 0", []string{"--seconds", "-1", fake}},
		{2, "--window", []string{"--window", "70000", fake}},
		{2, "--beside", []string{"--beside", "-1", fake}},
		{2, "--beside", []string{"--beside", "4194304", fake}}, // above all process ids
		{2, "--version 3", []string{"--version", "3", fake}},
	} {
		var stderr bytes.Buffer
		if got := run(t.Context(), c.args, scenarios, &stderr, &stderr); got != c.want || !strings.Contains(stderr.String(), c.text) {
			t.Errorf("%q: got exit status %d, want %d with %q:\n%s", c.args, got, c.want, c.text, &stderr)
		}
	}
}

func TestRunFailsWhenAFileCannotBeWritten(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	args := []string{"--brokers", "", "--rounds", "1", "--seconds", "0.02", "--only", "^connect$", "--json", "/nonexistent/x", fakeCommand("f", false)}
	if code := run(t.Context(), args, small(), &out, &out); code != 1 || !strings.Contains(out.String(), "/nonexistent/x") {
		t.Errorf("got exit status %d:\n%s", code, &out)
	}
}

// After a Ctrl-C the broker that was running is gone, with everything that its command had started.
func TestRunStopsWhatItStarted(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// A background process of the command holds the fifo open: its end is read when that process has ended.
	command := fmt.Sprintf("fake={ echo {port}; exec sleep 1000; } >%s & %s={port} exec %s", quote(fifo), fakePort, quote(os.Args[0]))
	ctx, cancel := context.WithCancel(t.Context())
	ports := make(chan string, 1)
	go func() {
		defer close(ports)
		f, err := os.Open(fifo)
		if err != nil {
			return
		}
		defer f.Close()
		r := bufio.NewReader(f)
		port, _ := r.ReadString('\n')
		cancel()
		_, _ = io.Copy(io.Discard, r)
		ports <- strings.TrimSpace(port)
	}()
	var out bytes.Buffer
	args := []string{"--brokers", "", "--seconds", "30", "--only", "^p2p-qos0$", command}
	if code := run(ctx, args, small(), &out, &out); code != 130 {
		t.Errorf("got exit status %d, want 130:\n%s", code, &out)
	}
	select {
	case port := <-ports:
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			t.Error("the broker still listens")
		}
	case <-time.After(20 * time.Second):
		t.Error("the command's background process still runs")
	}
}

// Every scenario counts what arrives, at a broker that others wrote.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	b, err := brokerNamed("mosquitto", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []byte{4, 5} {
		r, err := b.start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		brief := timing{warmUp: 10 * time.Millisecond, length: 150 * time.Millisecond, settled: 10 * time.Millisecond}
		cost := 0.0
		for _, s := range small() {
			// Twice the same process: it counts twice, and its memory once.
			got, err := s.run(t.Context(), r.address(), version, brief, r.Process, r.Process)
			if err != nil {
				t.Errorf("version %d, %s: %v", version, s.name, err)
				continue
			}
			if got.Delivered == 0 || got.Rate <= 0 || got.BrokerMicros < 0 || got.GenMicros < 0 || got.GenCalls <= 0 {
				t.Errorf("version %d, %s: got %+v, want deliveries, a rate, and costs that are not below 0", version, s.name, got)
			}
			if s.load.Rate > 0 && (got.P50Micros <= 0 || got.P50Micros > got.P99Micros || got.P99Micros > got.P999Micros || got.Value != got.P99Micros) {
				t.Errorf("version %d, %s: got percentiles of %+v", version, s.name, got)
			}
			cost += got.BrokerMicros
		}
		if cost == 0 {
			t.Errorf("version %d cost the broker nothing", version)
		}
		r.stop()
	}
}

// What works beside the broker counts as the broker's, and a process that isn't there is an error.
func TestUseCountsWhatWorksBeside(t *testing.T) {
	self := process.Process(os.Getpid())
	one, err := use([]process.Process{self})
	if err != nil {
		t.Fatal(err)
	}
	two, err := use([]process.Process{self, self})
	if err != nil {
		t.Fatal(err)
	}
	if two.CPUSeconds < 2*one.CPUSeconds || one.ResidentBytes == 0 || two.ResidentBytes > 2*one.ResidentBytes {
		t.Errorf("got %+v of a process and %+v of it beside itself", one, two)
	}
	if _, err := use([]process.Process{self, 1 << 22}); err == nil {
		t.Error("a process that doesn't exist: got no error")
	}
}

func TestBrokerNamedFindsLoopmq(t *testing.T) {
	b, err := brokerNamed("loopmq", os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := quote(os.Args[0]) + " serve --tcp 127.0.0.1:{port} --ws off --http off --coap off --admin off --store pebble:{dir}/data"; b.command != want {
		t.Errorf("got command %q, want %q", b.command, want)
	}
}

func TestMediansAndRatios(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{1, 9, 5, 7}, 6}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v: got %v, want %v", c.values, got, c.want)
		}
	}
	r := &report{Rows: []*row{
		{Scenario: "a", Broker: "x", Rounds: []sample{{Value: 4}, {Value: 2}, {Value: 3}}},
		{Scenario: "a", Broker: "y", Rounds: []sample{{Value: 12}}},
		{Scenario: "a", Broker: "z", Failures: []string{"lost"}},
		{Scenario: "b", Broker: "x", Rounds: []sample{{Value: 1}}},
	}}
	r.summarize()
	if x, y := r.Rows[0], r.Rows[1]; x.Median.Value != 3 || x.Lowest != 2 || x.Highest != 4 || y.Ratio != 0.25 {
		t.Errorf("got %+v and %+v", x, y)
	}
	if z, b := r.Rows[2], r.Rows[3]; z.Ratio != 0 || b.Ratio != 0 || !r.failed() {
		t.Errorf("got %+v and %+v", z, b)
	}
	for v, want := range map[float64]string{1234: "1234", 56.78: "56.8", 2.345: "2.35"} {
		if got := short(v); got != want {
			t.Errorf("short(%s): got %s, want %s", strconv.FormatFloat(v, 'g', -1, 64), got, want)
		}
	}
}
