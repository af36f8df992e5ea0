// Package deploy_test runs what deploy/ holds: local.sh with real processes, haproxy.cfg against nodes that misbehave, and the command
// lines that the images and units start.
package deploy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"loopmq/internal/child"
)

// binary is the program, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	// Debian keeps haproxy out of an ordinary user's PATH.
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/usr/local/sbin")
	dir, err := os.MkdirTemp("", "loopmq-deploy")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "loopmq")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/loopmq").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// patience bounds each wait; nothing takes that long.
const patience = 60 * time.Second

// cluster is what `local.sh up` has started.
type cluster struct {
	*exec.Cmd
	env    map[string]string // What is in DIR/env.
	pids   map[string]int    // All processes, by name.
	stderr bytes.Buffer      // To be read after Wait.
}

// mustUp runs local.sh up and returns when everything is ready. What it leaves behind at the end of the test is killed.
func mustUp(t *testing.T, args ...string) *cluster {
	t.Helper()
	return mustUpWith(t, append([]string{"--no-prometheus"}, args...)...)
}

// mustUpWith is mustUp with Prometheus.
func mustUpWith(t *testing.T, args ...string) *cluster {
	t.Helper()
	args = append([]string{"up", "--bin", binary, "--port", "0"}, args...)
	c := &cluster{Cmd: exec.Command("./local.sh", args...), env: map[string]string{}, pids: map[string]int{}}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = &c.stderr
	c.WaitDelay = patience
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		for _, pid := range c.pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	dir := ""
	for lines := bufio.NewScanner(out); lines.Scan() && !strings.HasPrefix(lines.Text(), "Ctrl-C"); {
		if d, ok := strings.CutPrefix(lines.Text(), "Directory "); ok {
			dir = strings.TrimSpace(d)
		}
	}
	if dir == "" {
		_ = c.Wait()
		t.Fatalf("local.sh %s: %v\n%s", args, c.ProcessState, c.stderr.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		c.env[name] = value
	}
	c.readPids(t)
	return c
}

func (c *cluster) readPids(t *testing.T) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(c.env["DIR"], "*", "pid"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || syscall.Kill(pid, 0) != nil {
			t.Fatalf("%s has %q, which isn't running", file, text)
		}
		c.pids[filepath.Base(filepath.Dir(file))] = pid
	}
}

// mustBeGone complains of what still runs.
func (c *cluster) mustBeGone(t *testing.T) {
	t.Helper()
	for name, pid := range c.pids {
		if alive(pid) {
			t.Errorf("%s (%d) still runs", name, pid)
		}
	}
	if conn, err := net.Dial("tcp", c.env["MQTT"]); err == nil {
		conn.Close()
		t.Errorf("somebody still listens on %s", c.env["MQTT"])
	}
}

// alive reports whether a process is there, and more than an entry that nobody has asked for.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, ok := strings.Cut(string(stat), ") ")
	return err != nil || !ok || !strings.HasPrefix(state, "Z")
}

// local runs another command of local.sh to its end.
func local(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "./local.sh", args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("local.sh %s: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// metric returns a metric without labels of a node.
func (c *cluster) metric(t *testing.T, node int, name string) int {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://%s/metrics", c.env[fmt.Sprintf("NODE%d_ADMIN", node)]))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\d+)$`).FindSubmatch(body)
	if m == nil {
		t.Fatalf("node%d has no metric %s", node, name)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// mustConnect connects a client and reads its CONNACK.
func mustConnect(t *testing.T, addr, clientID string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "\x10%c\x00\x04MQTT\x04\x02\x00\x00\x00%c%s", 12+len(clientID), len(clientID), clientID)
	connack := make([]byte, 4)
	if _, err := io.ReadFull(c, connack); err != nil || !bytes.Equal(connack, []byte("\x20\x02\x00\x00")) {
		t.Fatalf("CONNACK % x (%v)", connack, err)
	}
	return c
}

// Three nodes share the clients; one that was killed comes back at its address; at the end nothing is left.
func TestLocal(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	c := mustUp(t, "--store", "memory", "--", "--log-level", "warn")
	for _, name := range []string{"node1", "node2", "node3", "haproxy"} {
		if c.pids[name] == 0 {
			t.Errorf("no pid of %s in %v", name, c.pids)
		}
	}
	for i := range 3 {
		mustConnect(t, c.env["MQTT"], fmt.Sprint("client", i))
	}
	for node := 1; node <= 3; node++ {
		if n := c.metric(t, node, "loopmq_clients_connected"); n != 1 {
			t.Errorf("node%d has %d clients of 3, want 1", node, n)
		}
	}

	if code, out := local(t, "start", "--dir", c.env["DIR"], "node2"); code != 1 || !strings.Contains(out, "node2 is running already") {
		t.Errorf("starting what runs: exit %d, %s", code, out)
	}
	old := c.pids["node2"]
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); alive(old); {
		if time.Now().After(deadline) {
			t.Fatal("node2 outlives SIGKILL")
		}
	}
	if code, out := local(t, "start", "--dir", c.env["DIR"], "node2"); code != 0 {
		t.Fatalf("start node2: exit %d, %s", code, out)
	}
	c.readPids(t)
	mustConnect(t, c.env["NODE2_MQTT"], "again")
	log, err := os.ReadFile(filepath.Join(c.env["DIR"], "node2", "log"))
	if err != nil || len(log) != 0 {
		t.Errorf("with --log-level warn node2 logged %q (%v)", log, err)
	}

	// A node that is halted can't hear that it is to end; it is made to go on.
	if err := syscall.Kill(c.pids["node1"], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil || c.stderr.Len() > 0 {
		t.Errorf("local.sh: %v and %q, want exit code 0 and silence", err, c.stderr.String())
	}
	c.mustBeGone(t)
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("%s is left in TMPDIR", left)
	}
}

// `down` stops what a killed local.sh has left running, and keeps what is in a directory that was named.
func TestLocalDown(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with space")
	c := mustUp(t, "--nodes", "1", "--dir", dir, "--store", "memory")
	if code, out := local(t, "--dir", dir, "--bin", binary); code != 1 || !strings.Contains(out, "is in use by process") {
		t.Errorf("a second one in the same directory: exit %d, %s", code, out)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	for name, pid := range c.pids {
		if !alive(pid) {
			t.Errorf("%s ended with local.sh", name)
		}
	}
	if code, out := local(t, "down", "--dir", dir); code != 0 || out != "" {
		t.Errorf("down: exit %d, %s", code, out)
	}
	c.mustBeGone(t)
	if _, err := os.Stat(filepath.Join(dir, "env")); err == nil {
		t.Error("env is still there, though nothing runs")
	}
	if _, err := os.Stat(filepath.Join(dir, "node1", "log")); err != nil {
		t.Error(err)
	}
	// While local.sh runs, down ends it too.
	c = mustUp(t, "--nodes", "1", "--dir", dir, "--store", "memory")
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	if code, out := local(t, "down", "--dir", dir); code != 0 || out != "" {
		t.Errorf("down: exit %d, %s", code, out)
	}
	if err := <-ended; err != nil {
		t.Errorf("local.sh: %v, want exit code 0", err)
	}
	c.mustBeGone(t)
}

func TestLocalSaysWhatIsWrong(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	up := []string{"up", "--bin", binary, "--no-prometheus", "--store", "memory", "--port"}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--nodes", "0"}, 2, `--nodes "0": allowed: 1 to 16`},
		{[]string{"--port", "x"}, 2, `--port "x": allowed: 0 to 65535`},
		{[]string{"--port"}, 2, "--port needs a value"},
		{[]string{"--fast"}, 2, `"--fast" isn't an option`},
		{[]string{"start", "node1"}, 2, "need --dir DIR"},
		{[]string{"start", "--dir", t.TempDir(), "node1"}, 1, "nothing is up"},
		{[]string{"down", "--dir", "/nowhere"}, 2, "need --dir DIR"},
		{[]string{"--bin", "/nowhere/loopmq"}, 1, "there is no program /nowhere/loopmq: run 'make build'"},
		{append(up, port), 1, "port " + port + " is taken"},
		{append(up, "0", "--", "--log-level", "loud"), 1, `--log-level "loud": allowed`},
	} {
		if code, out := local(t, c.args...); code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit %d, output %q, want %d and %q", c.args, code, out, c.code, c.want)
		}
	}
	if code, out := local(t, "--help"); code != 0 || !strings.HasPrefix(out, "Usage: ") {
		t.Errorf("--help: exit %d, output %q", code, out)
	}
}

// Without redis-server it says what to install.
func TestLocalNeedsRedis(t *testing.T) {
	tools := t.TempDir()
	for _, tool := range []string{"bash", "dirname", "mktemp"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(tools, tool)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(tools, "bash"), "./local.sh", "--bin", binary)
	cmd.Env = []string{"PATH=" + tools}
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), "apt-get install redis-server") {
		t.Errorf("exit %d, output %q", code, out)
	}
}

// What is published at one node reaches a subscriber at another, all through HAProxy, with one Redis behind them.
func TestMessageFromNodeToNode(t *testing.T) {
	c := mustUp(t, "--nodes", "2")
	if c.pids["redis"] == 0 {
		t.Errorf("no pid of redis in %v", c.pids)
	}
	_, port, _ := net.SplitHostPort(c.env["MQTT"])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	subscriber := exec.CommandContext(ctx, "mosquitto_sub", "-p", port, "-V", "5", "-q", "1", "-t", "greeting/#", "-C", "1", "-v")
	var got bytes.Buffer
	subscriber.Stdout, subscriber.Stderr = &got, &got
	if err := subscriber.Start(); err != nil {
		t.Fatal(err)
	}
	for c.metric(t, 1, "loopmq_subscriptions")+c.metric(t, 2, "loopmq_subscriptions") == 0 {
		if ctx.Err() != nil {
			t.Fatalf("nobody subscribes: %s", got.String())
		}
	}
	// It has the fewest connections, so the publisher goes there.
	other := 1
	if c.metric(t, 1, "loopmq_clients_connected") == 1 {
		other = 2
	}
	if n := c.metric(t, other, "loopmq_connections_opened_total"); n != 0 {
		t.Errorf("node%d has had %d connections before anybody published, want 0", other, n)
	}
	publish := exec.CommandContext(ctx, "mosquitto_pub", "-p", port, "-V", "5", "-q", "1", "-t", "greeting/world", "-m", "hello")
	if out, err := publish.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := subscriber.Wait(); err != nil || got.String() != "greeting/world hello\n" {
		t.Errorf("the subscriber got %q (%v)", got.String(), err)
	}
	if n := c.metric(t, other, "loopmq_connections_opened_total"); n != 1 {
		t.Errorf("node%d has had %d connections, want that of the publisher", other, n)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil || c.stderr.Len() > 0 {
		t.Errorf("local.sh: %v and %q, want exit code 0 and silence", err, c.stderr.String())
	}
	c.mustBeGone(t)
}

// node is what HAProxy sees of a node: a port that echoes, and one that answers /readyz.
type node struct {
	mqtt    net.Listener
	admin   *http.Server
	addr    string // Of admin.
	status  atomic.Int32
	checked chan int32 // What a check was answered, if somebody waits for it.
}

// mustNode starts a node that is ready, and says its name to whoever sends it a line.
func mustNode(t *testing.T, name string) *node {
	t.Helper()
	n := &node{checked: make(chan int32)}
	n.status.Store(http.StatusOK)
	var err error
	if n.mqtt, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.mqtt.Close() })
	go func() {
		for {
			c, err := n.mqtt.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, name)
				}
			}()
		}
	}()
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = admin.Addr().String()
	n.admin = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := n.status.Load()
		if r.URL.Path != "/readyz" {
			status = http.StatusNotFound
		}
		w.WriteHeader(int(status))
		select {
		case n.checked <- status:
		default:
		}
	})}
	t.Cleanup(func() { n.admin.Close() })
	go func() { _ = n.admin.Serve(admin) }()
	return n
}

// answer answers checks from now on; it returns when HAProxy has seen that, since it has asked again.
func (n *node) answer(t *testing.T, status int32) {
	t.Helper()
	n.status.Store(status)
	for seen, late := 0, time.After(patience); seen < 2; {
		select {
		case s := <-n.checked:
			if s == status {
				seen++
			}
		case <-late:
			t.Fatal("HAProxy doesn't check")
		}
	}
}

// A node whose /readyz says 503 gets no new connections and keeps those that it has; they are cut off when it doesn't answer any more.
func TestHAProxyDrainsThenCutsOff(t *testing.T) {
	one, two := mustNode(t, "one"), mustNode(t, "two")
	front := freePort()
	text, err := os.ReadFile("haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	server := regexp.MustCompile(`(?m)^\tserver node\d .*\n`)
	config := server.ReplaceAllString(string(text), "")
	for i, n := range []*node{one, two} {
		_, port, _ := net.SplitHostPort(n.addr)
		config += fmt.Sprintf("\tserver node%d %s port %s\n", i+1, n.mqtt.Addr(), port)
	}
	config = strings.NewReplacer("bind :1883", "bind "+front, "bind :8404", "bind "+freePort()).Replace(config)
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	haproxy := exec.CommandContext(ctx, "haproxy", "-db", "-f", path)
	var log bytes.Buffer
	haproxy.Stdout, haproxy.Stderr = &log, &log
	if err := haproxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = haproxy.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})

	// ask says which node a connection is with.
	ask := func(c net.Conn) string {
		t.Helper()
		fmt.Fprintln(c)
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(line)
	}
	connect := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", front)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
		return c
	}
	one.answer(t, http.StatusOK) // HAProxy listens.
	a := connect()
	with := ask(a) // Now it counts.
	b := connect()
	if with == "two" {
		a, b = b, a
	}
	if got := ask(a) + ask(b); got != "onetwo" {
		t.Fatalf("two connections are with %s", got)
	}

	one.answer(t, http.StatusServiceUnavailable)
	for range 4 {
		if got := ask(connect()); got != "two" {
			t.Errorf("a new connection is with %s, though that isn't ready", got)
		}
	}
	if got := ask(a); got != "one" {
		t.Errorf("the connection of the node that isn't ready: %s", got)
	}

	one.admin.Close()
	if line, err := bufio.NewReader(a).ReadString('\n'); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection to a node that is gone: read %q, %v, want it cut off", line, err)
	}
	if got := ask(b); got != "two" {
		t.Errorf("the connection of the other node: %s", got)
	}
}

// freePort returns an address that a proxy can have, and nobody else takes before it does.
func freePort() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(child.FreePort())) }

// HAProxy and Prometheus accept their files as they are here.
func TestConfigurationsAreValid(t *testing.T) {
	if out, err := exec.Command("haproxy", "-c", "-f", "haproxy.cfg").CombinedOutput(); err != nil {
		t.Errorf("haproxy.cfg: %v\n%s", err, out)
	}
	if out, err := exec.Command("promtool", "check", "config", "prometheus.yml").CombinedOutput(); err != nil {
		t.Errorf("prometheus.yml: %v\n%s", err, out)
	}
}

// The command lines of image, compose file and unit are ones that the program accepts.
func TestCommandLinesAreAccepted(t *testing.T) {
	for file, line := range map[string]*regexp.Regexp{
		"Dockerfile":      regexp.MustCompile(`(?m)^CMD \[(.*)\]$`),
		"compose.yaml":    regexp.MustCompile(`(?m)^  command: \[(serve.*)\]$`),
		"loopmq.service":  regexp.MustCompile(`(?m)^Environment="FLAGS=(.*)"$`),
		"loopmq.service ": regexp.MustCompile(`(?m)^#   FLAGS=(.*)$`),
	} {
		text, err := os.ReadFile(strings.TrimSpace(file))
		if err != nil {
			t.Fatal(err)
		}
		m := line.FindStringSubmatch(string(text))
		if m == nil {
			t.Fatalf("%s: no command line", file)
		}
		args := strings.Fields(strings.NewReplacer(`"`, "", ",", "").Replace(m[1]))
		if args[0] != "serve" {
			args = append([]string{"serve"}, args...)
		}
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "/etc/loopmq/", "./") // what docs/deploy.md puts there
		}
		// One mistake is added, so that nothing starts: it has to be the only one.
		out, _ := exec.Command(binary, append(args, "--grace", "never")...).CombinedOutput()
		if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); len(lines) != 1 || !strings.Contains(lines[0], `--grace "never"`) {
			t.Errorf("%s: loopmq %s: %s", file, args, out)
		}
	}
}

// Whatever the program is built from gets into the image's build: .dockerignore lets nothing else through.
func TestImageHasWhatItIsBuiltFrom(t *testing.T) {
	text, err := os.ReadFile("Dockerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	passes := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^!\*\*/\*(\.\w+)$`).FindAllStringSubmatch(string(text), -1) {
		passes[m[1]] = true
	}
	const list = `{{if not .Standard}}{{with .Module}}{{if .Main}}{{range $.GoFiles}}{{.}}{{"\n"}}{{end}}{{range $.EmbedFiles}}{{.}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}`
	out, err := exec.Command("go", "list", "-deps", "-f", list, "../cmd/loopmq").Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Fields(string(out))
	for _, file := range files {
		if !passes[filepath.Ext(file)] {
			t.Errorf("Dockerfile.dockerignore leaves out %s", file)
		}
	}
	if len(files) < 100 {
		t.Errorf("the program has %d files", len(files))
	}
}

// A container's end is awaited for longer than the broker's grace time, or it would be killed in the middle.
func TestStopsAreAwaited(t *testing.T) {
	help, err := exec.Command(binary, "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	grace := duration(t, string(help), `(?s)--grace.*?\(default (\d+s)\)`)
	for file, pattern := range map[string]string{
		"compose.yaml":   `(?s)x-node:.*?stop_grace_period: (\d+s)`,
		"loopmq.service": `TimeoutStopSec=(\d+s)`,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := duration(t, string(text), pattern); d <= grace {
			t.Errorf("%s: %v, --grace is %v", file, d, grace)
		}
	}
}

func duration(t *testing.T, text, pattern string) time.Duration {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("nothing matches %s", pattern)
	}
	d, err := time.ParseDuration(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return d
}
