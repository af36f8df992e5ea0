package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"loopmq/metrics"
)

// binary is the program, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "loopmq")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "loopmq")
	if out, err := exec.Command("go", "build", "-ldflags", "-X main.version=v1.2.3-test", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// patience bounds each wait for the process; nothing takes that long.
const patience = 30 * time.Second

// lifetime is how long a process may run that a test has started, and forgot: a test waits more than once.
const lifetime = 10 * patience

// execute runs the program to its end.
func execute(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var o, e bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

// call runs the same without a process, which is faster and shows in the coverage.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var o bytes.Buffer
	var e syncBuffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code = run(ctx, args, &o, &e)
	return code, o.String(), e.String()
}

// process is a running broker.
type process struct {
	*exec.Cmd
	tcp, admin string
	first      map[string]any // The first line of the log.
	lines      chan string    // The others.
	stderr     *os.File       // Where they come from.
}

// mustServe starts the program and waits until it says where it listens.
func mustServe(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{lines: make(chan string, 1000)}
	ctx, cancel := context.WithTimeout(context.Background(), lifetime)
	p.Cmd = exec.CommandContext(ctx, binary, append([]string{
		"serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "127.0.0.1:0", "--coap", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json", "--store", "memory",
	}, args...)...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stderr, p.stderr = w, r
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = p.Wait(); r.Close() })
	w.Close()
	log := bufio.NewScanner(r)
	if !log.Scan() {
		t.Fatalf("no first line: %v", log.Err())
	}
	if err := json.Unmarshal(log.Bytes(), &p.first); err != nil {
		t.Fatalf("first line %q: %v", log.Text(), err)
	}
	go func() {
		defer close(p.lines)
		for log.Scan() {
			p.lines <- log.Text()
		}
	}()
	p.tcp, _ = p.first["tcp"].(string)
	p.admin, _ = p.first["admin"].(string)
	return p
}

func (p *process) get(t *testing.T, path string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + p.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// mustConnect connects a 5.0 client and reads its CONNACK.
func mustConnect(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	mustAccept(t, c, "c")
	return c
}

// mustAccept sends a CONNECT of MQTT 5.0, and reads its CONNACK.
func mustAccept(t *testing.T, c net.Conn, clientID string) {
	t.Helper()
	packet := append([]byte{0x10, byte(13 + len(clientID))}, "\x00\x04MQTT\x05\x02\x00\x00\x00\x00"...)
	if _, err := c.Write(append(append(packet, byte(len(clientID))), clientID...)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, head[1])
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatal(err)
	}
	if head[0] != 0x20 || body[1] != 0 {
		t.Fatalf("CONNACK is % x % x", head, body)
	}
}

func TestVersion(t *testing.T) {
	code, stdout, stderr := execute(t, "version")
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "loopmq v1.2.3-test ") {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	for _, arg := range []string{"version", "--version"} {
		code, stdout, stderr := call(t, arg)
		if code != 0 || stderr != "" || !regexp.MustCompile(`^loopmq dev go\S+ \w+/\w+\n$`).MatchString(stdout) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", arg, code, stdout, stderr)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"help"}, usage},
		{[]string{"--help"}, usage},
		{[]string{"-h"}, usage},
		{[]string{"help", "serve"}, serveUsage},
		{[]string{"serve", "--help"}, serveUsage},
		{[]string{"serve", "--loops", "x", "-h"}, serveUsage},
	} {
		code, stdout, stderr := call(t, c.args...)
		if code != 0 || stdout != c.want || stderr != "" {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
	}
}

// Whatever is wrong is said at once, each on a line that names flag, value and
// what is allowed.
func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string // One per line of stderr.
	}{
		{"start", []string{`command "start": allowed: serve, config, health, ctl, webhooks, passwd, version, help`}},
		{"version now", []string{`version: argument "now": allowed: none`}},
		{"serve --tcp 1883", []string{`--tcp "1883": allowed: host:port`}},
		{"serve --tcp localhost:65536", []string{`--tcp "localhost:65536": allowed: host:port`}},
		{"serve --admin localhost:http", []string{`--admin "localhost:http": allowed: host:port`}},
		{"serve --tcp=", []string{`--tcp "": allowed`}},
		{"serve --tcp", []string{`--tcp: needs a value: allowed: host:port`}},
		{"serve --store redis", []string{`--store "redis": allowed: memory, or pebble:DIR`}},
		{"serve --store redis//user:secret@host", []string{`--store "…@host": allowed: memory, or pebble:DIR`}},
		{"serve --store pebble:", []string{`--store pebble: "" has no directory; allowed: a directory`}},
		{
			"serve --store pebble:data?sync=never&max=1&sink=x",
			[]string{`--store pebble: the parameter max is "1"; allowed: a size`, `no parameter "sink"; allowed: cache, `, `sync is "never"; allowed: always, interval, off`},
		},
		{
			"serve --store redis://user:secret@host/x?ack=most&acks=store --loops x",
			[]string{`--loops "x"`, `the path of the URL is "x"; allowed: the number`, `ack is "most"; allowed: memory, store`, `"acks"; allowed: ack, `},
		},
		{"serve --loops -1", []string{`--loops "-1": allowed: 0 (one per core) to 1024`}},
		{"serve --loops 1025", []string{`--loops "1025": allowed`}},
		{"serve --loops 1e3", []string{`--loops "1e3": allowed`}},
		{"serve --log-level verbose", []string{`--log-level "verbose": allowed: debug, info, warn, error`}},
		{"serve --log-format xml", []string{`--log-format "xml": allowed: text, json`}},
		{"serve --grace 10", []string{`--grace "10": allowed: a duration such as 10s, from 0s to 1h`}},
		{"serve --grace -1s", []string{`--grace "-1s": allowed`}},
		{"serve --grace 61m", []string{`--grace "61m": allowed`}},
		{"serve --drain-wait 5 --drain-wait 2h", []string{`--drain-wait "5": allowed: a duration such as 10s`, `--drain-wait "2h"`}},
		{"serve --drain-rate -1 --drain-rate fast", []string{`--drain-rate "-1": allowed: 0 (all at once) to 1000000`, `--drain-rate "fast"`}},
		{"serve --allow-anonymous=maybe", []string{`--allow-anonymous "maybe": allowed: true, false`}},
		{"serve now", []string{`argument "now": allowed: flags only`}},
		{"serve --port 1", []string{`--port: unknown flag`}},
		{"serve --port=1", []string{`--port=1: unknown flag`}},
		{"serve --tcp 0.0.0.0:0", []string{`--tcp "0.0.0.0:0": anybody who reaches this address`}},
		{"serve --tcp :0", []string{`--tcp ":0": anybody who reaches this address`}},
		{"serve --tcp [::]:0", []string{`--tcp "[::]:0": anybody who reaches this address`}},
		{"serve --tcp off --admin example.com:0", []string{`--admin "example.com:0": anybody who reaches this address`}},
		{
			"serve --loops x --port 1 --tcp :1 extra --log-level loud --store s3 -- more",
			[]string{`--port: unknown`, `"extra"`, `"more"`, `--loops "x"`, `--log-level "loud"`, `--tcp ":1"`, `--store "s3"`},
		},
	} {
		code, stdout, stderr := call(t, strings.Fields(c.args)...)
		if len(c.want) > 1 { // Once as a process, too.
			code, stdout, stderr = execute(t, strings.Fields(c.args)...)
		}
		lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		if code != 2 || stdout != "" || len(lines) != len(c.want) {
			t.Errorf("%s: exit %d, stdout %q, stderr\n%s\nwant exit 2 and %d lines on stderr", c.args, code, stdout, stderr, len(c.want))
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(lines[i], "loopmq: ") || !strings.Contains(lines[i], want) || strings.Contains(lines[i], "secret") {
				t.Errorf("%s: line %q, want %q", c.args, lines[i], want)
			}
		}
	}
	if code, stdout, stderr := call(t); code != 2 || stdout != "" || stderr != usage {
		t.Errorf("no arguments: exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

// A taken port is one line that names flag and address, and exit code 1.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	for _, flag := range []string{"--tcp", "--http", "--admin"} {
		args := []string{"serve", "--store", "memory", "--ws", "off", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--coap", "127.0.0.1:0", "--admin", "127.0.0.1:0", flag, taken}
		want := fmt.Sprintf("loopmq: %s: listen on %s: address already in use\n", flag, taken)
		for _, execute := range []func(*testing.T, ...string) (int, string, string){execute, call} {
			if code, stdout, stderr := execute(t, args...); code != 1 || stdout != "" || stderr != want {
				t.Errorf("%s: exit %d, stdout %q, stderr %q, want 1 and %q", flag, code, stdout, stderr, want)
			}
		}
	}
}

// The listeners that nobody asked for leave a port to who has it.
func TestDefaultPortTaken(t *testing.T) {
	const taken = "127.0.0.1:8083"
	for late := time.Now().Add(patience); ; <-time.After(time.Millisecond) { // others may have it for a while, or for good
		if l, err := net.Listen("tcp", taken); err == nil {
			defer l.Close()
			break
		}
		if time.Now().After(late) {
			break
		}
	}
	var stderr syncBuffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := 0
	stderr.onWrite = func() {
		if lines++; lines == 2 { // The warning, and that it listens.
			cancel()
		}
	}
	if code := run(ctx, []string{"serve", "--tcp", "127.0.0.1:0", "--http", "off", "--coap", "off", "--admin", "off", "--store", "memory"}, io.Discard, &stderr); code != 0 {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{`msg=listener_off name=ws error="listen on 127.0.0.1:8083: address already in use"`, " ws=off "} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("log without %s: %s", want, stderr.String())
		}
	}
	code, _, errors := call(t, "serve", "--tcp", "127.0.0.1:0", "--ws", taken, "--admin", "off", "--store", "memory")
	if code != 1 || !strings.Contains(errors, "--ws: listen on "+taken) {
		t.Errorf("asked for: exit %d, %s", code, errors)
	}
}

func TestServe(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			p := mustServe(t, "--loops", "3")
			if p.first["msg"] != "listening" || p.first["level"] != "INFO" || p.first["version"] != "v1.2.3-test" {
				t.Errorf("first line: %v", p.first)
			}
			client := mustConnect(t, p.tcp)
			for path, want := range map[string]string{
				"/livez":   "ok\n",
				"/readyz":  "ok\n",
				"/health":  `"status":"ok"`,
				"/metrics": "\nloopmq_build_info{version=\"v1.2.3-test\"} 1\n",
			} {
				if code, body := p.get(t, path); code != 200 || !strings.Contains(body, want) {
					t.Errorf("%s: %d, want 200 and %q in %q", path, code, want, body)
				}
			}
			// A series for each of three loops.
			if _, body := p.get(t, "/metrics"); strings.Count(body, "\nloopmq_loop_lag_seconds{") != 3 {
				t.Error("--loops 3 doesn't give three loops")
			}
			if err := p.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			// Server shutting down. [MQTT-3.14.4]
			if got, _ := io.ReadAll(client); len(got) < 3 || got[0] != 0xe0 || got[2] != 0x8b {
				t.Errorf("the client got % x, want DISCONNECT with 0x8b", got)
			}
			if err := p.Wait(); err != nil {
				t.Errorf("%v, want exit code 0", err)
			}
			if lines := p.log(); !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, `"msg":"shutdown"`) }) {
				t.Errorf("no shutdown in the log: %q", lines)
			}
		})
	}
}

// Whoever registers a metric has put it on the list, else it has no HELP.
// After SIGTERM clients can still connect while /readyz says not to; then they are told where to go, and the exit code is 0.
func TestServeDrains(t *testing.T) {
	t.Parallel()
	p := mustServe(t, "--drain-wait", "5s", "--drain-rate", "1000", "--server-reference", "elsewhere")
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for code := 200; code != 503; {
		code, _ = p.get(t, "/readyz")
	}
	got, _ := io.ReadAll(mustConnect(t, p.tcp))
	if len(got) < 3 || got[0] != 0xe0 || got[2] != 0x9c || !bytes.Contains(got, []byte("\x1c\x00\x09elsewhere")) {
		t.Errorf("the client got % x, want DISCONNECT with 0x9c and the Server Reference", got)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v, want exit code 0", err)
	}
}

func TestMetricsAreListed(t *testing.T) {
	_, body := mustServe(t).get(t, "/metrics")
	listed := map[string]bool{}
	for _, f := range metrics.Families() {
		listed[f.Name] = true
	}
	for line := range strings.Lines(body) {
		name, _, _ := strings.Cut(line, " ")
		name, _, _ = strings.Cut(name, "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		if strings.HasPrefix(name, "loopmq_") && !listed[name] {
			t.Errorf("%s isn't in metrics.Families", name)
		}
	}
}

// log returns what the process logged after the first line, up to its end.
func (p *process) log() []string {
	var lines []string
	for l := range p.lines {
		lines = append(lines, l)
	}
	return lines
}

func TestServeOff(t *testing.T) {
	p := mustServe(t, "--admin", "off")
	if p.first["admin"] != "off" {
		t.Errorf("first line: %v", p.first)
	}
	mustConnect(t, p.tcp)
	p = mustServe(t, "--tcp", "off")
	if p.first["tcp"] != "off" {
		t.Errorf("first line: %v", p.first)
	}
	if code, _ := p.get(t, "/readyz"); code != 200 {
		t.Errorf("/readyz: %d", code)
	}
}

func TestServeAllowAnonymous(t *testing.T) {
	p := mustServe(t, "--tcp", "0.0.0.0:0", "--allow-anonymous")
	_, port, err := net.SplitHostPort(p.tcp)
	if err != nil {
		t.Fatal(err)
	}
	mustConnect(t, "127.0.0.1:"+port)
}

func TestServeTextLog(t *testing.T) {
	var stderr syncBuffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stderr.onWrite = cancel // With the first line it has started, and is to stop.
	args := []string{"serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "127.0.0.1:0", "--coap", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--store", "memory", "--log-level", "debug"}
	if code := run(ctx, args, io.Discard, &stderr); code != 0 {
		t.Errorf("exit %d", code)
	}
	if !regexp.MustCompile(`^time=\S+ level=INFO msg=listening version=\S+ tcp=127\.0\.0\.1:\d+ ws=off http=127\.0\.0\.1:\d+ coap=127\.0\.0\.1:\d+ admin=127\.0\.0\.1:\d+\n`).MatchString(stderr.String()) {
		t.Errorf("log %q", stderr.String())
	}
}

func TestServeLogLevel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr syncBuffer
	if code := run(ctx, []string{"serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "off", "--coap", "off", "--admin", "off", "--store", "memory", "--log-level", "error"}, io.Discard, &stderr); code != 0 {
		t.Errorf("exit %d", code)
	}
	if got := stderr.String(); got != "" {
		t.Errorf("log %q, want nothing", got)
	}
}

// A second signal doesn't wait for the shutdown, which takes its time here.
func TestSecondSignal(t *testing.T) {
	p := mustServe(t, "--drain-wait", lifetime.String())
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.awaitLine(t, `"msg":"drain"`)
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if _ = p.Wait(); p.ProcessState.ExitCode() != 130 {
		t.Errorf("%v, want exit code 130", p.ProcessState)
	}
}

// The broker outlives whoever reads its log.
func TestServeWithoutLogReader(t *testing.T) {
	p := mustServe(t, "--log-level", "debug")
	p.stderr.Close()
	for range p.lines {
		t.Fatal("the log is still read")
	}
	mustConnect(t, p.tcp).Close()
	mustConnect(t, p.tcp)
	if code, _ := p.get(t, "/livez"); code != 200 {
		t.Errorf("/livez: %d", code)
	}
}

// GOGC of the environment wins over the default of the program.
func TestTuneGC(t *testing.T) {
	before := debug.SetGCPercent(123)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "123") // Restores what there was.
	tuneGC(t.Context())
	if got := debug.SetGCPercent(123); got != 123 {
		t.Errorf("with GOGC set: %d percent, want it left alone", got)
	}
	os.Unsetenv("GOGC")
	tuneGC(t.Context())
	if got := debug.SetGCPercent(123); got != gcPercent {
		t.Errorf("without GOGC: %d percent, want %d", got, gcPercent)
	}
}

func TestGCPercentFollowsItsRate(t *testing.T) {
	g := newGCTuner(heap{})
	var h heap
	ticks := func(n int, cycles uint64, want int) {
		t.Helper()
		for range n {
			h.cycles += cycles
			g.tick(h)
		}
		if g.percent != want {
			t.Fatalf("after %d ticks with %d collections each: %d%%, want %d%%", n, cycles, g.percent, want)
		}
	}
	ticks(10, gcOften-1, gcPercent)
	ticks(1, gcOften, 2*gcPercent)
	ticks(20, gcOften, gcPercentMax)
	ticks(20, gcOften-1, gcPercentMax)
	ticks(gcTicks-1, 0, gcPercentMax)
	ticks(1, gcOften-1, gcPercentMax)
	ticks(gcTicks-1, 0, gcPercentMax)
	ticks(1, 0, gcPercentMax/2)
	ticks(gcTicks, 0, gcPercentMax/4)
	ticks(10*gcTicks, 0, gcPercent)
}

// What a load has left is collected once it is over, and only then.
func TestGCCollectsWhatALoadHasLeft(t *testing.T) {
	const live = 64 << 20
	h := heap{cycles: 7, allocated: 1 << 30, live: live}
	g := newGCTuner(h)
	ticks := func(n int, allocated uint64, want int) {
		t.Helper()
		got := 0
		for range n {
			h.allocated += allocated
			if g.tick(h) {
				got++
				h.cycles++
			}
		}
		if got != want {
			t.Fatalf("after %d ticks with %d bytes each: collected %d times, want %d", n, allocated, got, want)
		}
	}
	ticks(100, live/gcLeft/100, 0) // not more than that
	ticks(100, live/100, 0)        // under load
	ticks(gcTicks-1, live/gcCalm, 0)
	ticks(1, live/gcCalm, 1)
	ticks(gcCalm/gcLeft, live/gcCalm, 0)
	ticks(2, live/gcCalm, 1)
	ticks(1000, 0, 0)
}

func TestOneLineForJoinedErrors(t *testing.T) {
	if got := oneLine(errors.Join(errors.New("a"), errors.New("b"))); got != "a; b" {
		t.Errorf("got %q", got)
	}
	if err := first(nil, errStarting, errors.New("later")); !errors.Is(err, errStarting) {
		t.Errorf("got %v", err)
	}
}

// syncBuffer collects what a broker in this process logs.
type syncBuffer struct {
	mu      sync.Mutex
	b       strings.Builder
	onWrite func()
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onWrite != nil {
		s.onWrite()
	}
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
