package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	httpbridge "loopmq/bridges/http"
	"loopmq/internal/redistest"
)

// ctl runs loopmq ctl against a broker, and complains unless the exit code is the one.
func (p *process) ctl(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	code, stdout, stderr := call(t, append([]string{"ctl", "--url", "http://" + p.admin}, args...)...)
	if code != want || (stderr == "") != (want == exitOK) {
		t.Errorf("ctl %q: exit %d, %q %q, want %d", args, code, stdout, stderr, want)
	}
	return stdout, stderr
}

// wantCtl complains unless each part is in what ctl prints.
func (p *process) wantCtl(t *testing.T, args string, parts ...string) {
	t.Helper()
	stdout, _ := p.ctl(t, exitOK, strings.Fields(args)...)
	for _, part := range parts {
		if !strings.Contains(stdout, part) {
			t.Errorf("ctl %s: %s, want %q in it", args, stdout, part)
		}
	}
}

// awaitCtl returns when each part is in what ctl prints.
func (p *process) awaitCtl(t *testing.T, args string, parts ...string) {
	t.Helper()
	await(t, strings.Join(parts, ", "), func() bool {
		stdout, _ := p.ctl(t, exitOK, strings.Fields(args)...)
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(stdout, part) })
	})
}

// Two nodes on one Redis: each shows and changes what the other has.
func TestCtlOnTwoNodes(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	var nodes [2]*process
	for i := range nodes {
		nodes[i] = mustServe(t, "--store", r.URL(), "--set", "bans.max=100", "--set", fmt.Sprintf("node_id=n%d", i+1),
			"--set", "webhooks[0].name=orders", "--set", "webhooks[0].url=https://127.0.0.1:1/", "--set", "webhooks[0].events=message.published")
		if nodes[i].first["msg"] != "listening" {
			if err := json.Unmarshal([]byte(nodes[i].awaitLine(t, `"msg":"listening"`)), &nodes[i].first); err != nil {
				t.Fatal(err)
			}
		}
		nodes[i].tcp, nodes[i].admin = nodes[i].first["tcp"].(string), nodes[i].first["admin"].(string)
	}
	one, two := nodes[0], nodes[1]
	mustConnect(t, two.tcp) // as c
	_, port, _ := strings.Cut(two.tcp, ":")
	if out, err := exec.Command("mosquitto_pub", "-p", port, "-i", "publisher", "-t", "a/b", "-m", "hello", "-r", "-q", "1").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	// What a node says of itself others know when it has renewed its lease.
	one.awaitCtl(t, "nodes", " n2  serving ")
	one.wantCtl(t, "nodes", "NODE ", " n1  serving ", two.admin)
	one.awaitCtl(t, "counters", "loopmq_messages_received_total", "  1\n")
	one.wantCtl(t, "counters --json", `"loopmq_messages_received_total":1`)
	one.awaitCtl(t, "counters --json --node n2", `"loopmq_messages_received_total":1`)
	if stdout, _ := one.ctl(t, exitOK, "counters", "--json", "--node", "n1"); strings.Contains(stdout, "loopmq_messages_received_total") {
		t.Errorf("the counters of n1 are %s, want none of what n2 received", stdout)
	}
	listed, _ := one.ctl(t, exitOK, "nodes")
	for line := range strings.Lines(listed) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "n2" {
			one.wantCtl(t, "counters --json --node "+fields[0], `"loopmq_messages_received_total":1`)
		}
	}
	one.wantCtl(t, "clients", "\nc  ")
	one.wantCtl(t, "clients --json --prefix c --address 127.0.0.1", `{"client_id":"c","connected":true,"node":"`)
	one.wantCtl(t, "client c", "protocol ", "5.0")
	one.wantCtl(t, "subscriptions", "TOPIC FILTER")
	one.wantCtl(t, "subscriptions c --json")
	one.wantCtl(t, "sessions --connected true --json")
	one.wantCtl(t, "retained a/#", "a/b    1    5")
	one.wantCtl(t, "retained show a/b", "payload           hello")
	one.wantCtl(t, "webhooks", "orders  running")
	one.wantCtl(t, "webhooks show orders", "matched ")
	one.wantCtl(t, "webhooks dead orders --json")
	one.wantCtl(t, "webhooks disable orders --reason fire")
	two.wantCtl(t, "webhooks list", "disabled")
	two.wantCtl(t, "webhooks enable orders")
	two.wantCtl(t, "webhooks replay orders --all", "0\n")
	two.wantCtl(t, "webhooks drop orders --all --json", `{"count":0}`)
	one.wantCtl(t, "bans add address 198.51.100.0/24 --for 24h --reason scans")
	one.wantCtl(t, "bans", "198.51.100.0/24  in 23h59m  operator  scans")
	one.wantCtl(t, "bans remove address 198.51.100.0/24")
	one.wantCtl(t, "kick c")
	one.wantCtl(t, "retained delete a/b")
	one.wantCtl(t, "retained --json")

	one.wantCtl(t, "drain n2 --rate 100 --wait 1ms --server-reference elsewhere")
	await(t, "the other node to be drained", func() bool {
		status, _ := two.get(t, "/readyz")
		return status == http.StatusServiceUnavailable
	})
	one.awaitCtl(t, "nodes", " drained ")
	one.wantCtl(t, "undrain n2")
	await(t, "it to be ready", func() bool {
		status, _ := two.get(t, "/readyz")
		return status == http.StatusOK
	})

	for args, code := range map[string]int{
		"kick nobody": 3, "client nobody": 3, "drain nobody": 3, "sessions delete nobody": 3, "retained delete x": 3, "bans remove address 192.0.2.1": 3,
		"counters --node x": 3, "webhooks show x": 3, "webhooks show orders 1-1": 3,
		"": 2, "x": 2, "clients x": 2, "kick": 2, "client": 2, "sessions x": 2, "bans add x": 2, "bans x": 2, "bans remove x": 2, "webhooks x": 2, "webhooks show": 2,
		"webhooks enable x y": 2, "webhooks drop x": 2, "webhooks drop x 1-1 --all": 2, "drain x --rate y": 2, "bans add username x --for y": 2, "token": 2,
		"token a b": 2, "token x --role king": 2, "clients --wait 1s": 2, "clients --colour": 2, "clients --cert x": 2, "clients --key x": 2, "nodes --url ftp://x": 2, "retained x y": 2,
		"bans add color red": 1, "webhooks show orders x": 1,
	} {
		one.ctl(t, code, strings.Fields(args)...)
	}
	if code, stdout, _ := call(t, "webhooks", "list", "--url", "http://"+one.admin); code != 0 || !strings.Contains(stdout, "orders") {
		t.Errorf("loopmq webhooks list: %d %s", code, stdout)
	}
	for args, want := range map[string]string{"ctl --help": ctlUsage, "webhooks --help": webhooksUsage, "ctl webhooks -h": webhooksUsage, "help ctl": ctlUsage, "help webhooks": webhooksUsage} {
		if code, stdout, _ := call(t, strings.Fields(args)...); code != 0 || stdout != want {
			t.Errorf("%s: %d %s", args, code, stdout)
		}
	}
	// The audit log has who did what.
	one.awaitLine(t, `"msg":"admin_write","actor":"local"`)
}

// All of a list is printed, however many pages it has.
func TestCtlPages(t *testing.T) {
	t.Parallel()
	const all = 2*pageSize + 1
	list := ""
	for i := range all {
		list += fmt.Sprintf("username user%d\n", i)
	}
	p := mustServe(t, "--set", "bans.file="+mustWrite(t, "bans", list))
	if stdout, _ := p.ctl(t, exitOK, "bans", "--json"); strings.Count(stdout, "\n") != all {
		t.Errorf("%d lines, want %d", strings.Count(stdout, "\n"), all)
	}
	if stdout, _ := p.ctl(t, exitOK, "bans"); strings.Count(stdout, "\n") != all+1 || strings.Count(stdout, "KIND") != 1 {
		t.Errorf("%d lines, want %d with one title", strings.Count(stdout, "\n"), all+1)
	}
}

// Tokens, certificates and the unix socket, as operators and curl use them.
func TestAdminAccess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca, key := issue(t, dir, "ca", nil, nil)
	for _, name := range []string{"server", "ops", "stranger"} {
		issue(t, dir, name, ca, key)
	}
	code, stdout, stderr := call(t, "ctl", "token", "alice", "--role", "write")
	secret, line, _ := strings.Cut(stdout, "\n")
	if code != 0 || !strings.HasPrefix(line, "alice write ") || !strings.Contains(stderr, "nobody can show again") {
		t.Fatalf("ctl token: %d %q %q", code, stdout, stderr)
	}
	mustWriteTo := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustWriteTo("tokens", "# operators\n"+line)
	mustWriteTo("alice", secret+"\n")
	file := mustWrite(t, "loopmq.yaml", `
admin:
  socket: `+at("admin.sock")+`
  tls: {certificates: [{certificate: `+at("server.pem")+`, key: `+at("server.key")+`}], client_ca: `+at("ca.pem")+`}
  token_file: `+at("tokens")+`
  tokens: [{name: dashboard, sha256: `+fmt.Sprintf("%x", sha256.Sum256([]byte("read-only")))+`}]
  certificates: [{name: ops, role: write}]
  pprof: true
`)
	p := mustServe(t, "--config", file)
	url, trust := "https://"+p.admin, []string{"--ca", at("ca.pem")}
	certificate := func(name string) []string { return append(trust, "--cert", at(name+".pem"), "--key", at(name+".key")) }
	for _, c := range []struct {
		name string
		want int
		args []string
		part string // of what it says
	}{
		{"nobody", exitNotAllowed, trust, "--token-file"},
		{"a wrong token", exitNotAllowed, append(trust, "--token", "x"), "no such token"},
		{"a token", exitNotFound, append(trust, "--token-file", at("alice")), "not connected"},
		{"a token that may read", exitNotAllowed, append(trust, "--token", "read-only"), "token dashboard has the role read"},
		{"a certificate", exitNotFound, certificate("ops"), "not connected"},
		{"a certificate without a role", exitNotAllowed, certificate("stranger"), "CN=stranger has no role"},
		{"the socket", exitNotFound, []string{"--url", "unix:" + at("admin.sock")}, "not connected"},
		{"an unknown authority", exitFailed, nil, "--ca FILE"},
		{"without TLS", exitFailed, []string{"--url", "http://" + p.admin}, "https://"},
		{"an address where nobody is", exitFailed, []string{"--url", "http://127.0.0.1:1"}, "--url or LOOPMQ_CTL_URL"},
		{"no such file", exitFailed, append(trust, "--token-file", at("nothing")), "no such file"},
	} {
		code, _, stderr := call(t, append([]string{"ctl", "--url", url, "kick", "nobody"}, c.args...)...)
		if code != c.want || !strings.Contains(stderr, c.part) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q, want %d and %q", c.name, code, stderr, c.want, c.part)
		}
	}
	// The same by variables, in a process of its own.
	cmd := exec.Command(binary, "ctl", "nodes")
	cmd.Env = append(os.Environ(), "LOOPMQ_CTL_URL="+url, "LOOPMQ_CTL_CA="+at("ca.pem"), "LOOPMQ_CTL_TOKEN=read-only")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "serving") {
		t.Errorf("by variables: %v %s", err, out)
	}
	curl := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("curl", append([]string{"-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", at("ca.pem")}, args...)...).Output()
		if err != nil {
			t.Errorf("curl %q: %v", args, err)
		}
		return string(out)
	}
	for want, args := range map[string][]string{
		"200": {"-H", "Authorization: Bearer read-only", url + "/api/v1/clients"},
		"401": {url + "/api/v1/clients"},
		"403": {"-X", "DELETE", "-H", "Authorization: Bearer read-only", url + "/api/v1/clients/x"},
		"404": {"--cert", at("ops.pem"), "--key", at("ops.key"), "-X", "DELETE", url + "/api/v1/clients/x"},
	} {
		if got := curl(args...); got != want {
			t.Errorf("curl %q: %s, want %s", args, got, want)
		}
	}
	if got := curl("--unix-socket", at("admin.sock"), "http://localhost/debug/pprof/goroutine?debug=1"); got != "200" {
		t.Errorf("a profile by the socket: %s", got)
	}
	if got := curl("-H", "Authorization: Bearer read-only", url+"/debug/pprof/heap"); got != "403" {
		t.Errorf("a profile with the role read: %s", got)
	}
	if info, err := os.Stat(at("admin.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	if code, _, stderr := call(t, "health", "--admin", url, "--ca", at("ca.pem")); code != 0 {
		t.Errorf("health by TLS: %d %s", code, stderr)
	}
	if code, _, stderr := call(t, "health", "--admin", "unix:"+at("admin.sock")); code != 0 {
		t.Errorf("health by the socket: %d %s", code, stderr)
	}
	// Another token, by SIGHUP; a line that is wrong changes nothing.
	mustWriteTo("tokens", "alice write\n")
	p.hup(t, "reload_refused")
	next, token := httpbridge.NewToken("bob", httpbridge.RoleWrite)
	mustWriteTo("tokens", token.String())
	p.hup(t, `"msg":"reload"`)
	if code, _, _ := call(t, "ctl", "--url", url, "kick", "nobody", "--ca", at("ca.pem"), "--token", next); code != exitNotFound {
		t.Errorf("with the new token: %d", code)
	}
	if code, _, _ := call(t, "ctl", "--url", url, "kick", "nobody", "--ca", at("ca.pem"), "--token", secret); code != exitNotAllowed {
		t.Errorf("with the old token: %d", code)
	}
}

func (p *process) hup(t *testing.T, want string) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.awaitLine(t, want)
}

// A session that is connected again is not offline, whenever its connection before ended.
func TestOffline(t *testing.T) {
	t.Parallel()
	at := time.Now().Add(-90 * time.Second).Format(time.RFC3339Nano)
	for item, want := range map[string]string{
		`{"client_id":"c","connected":true,"disconnected_at":"` + at + `"}`:  "-\n",
		`{"client_id":"c","connected":false,"disconnected_at":"` + at + `"}`: "1m30s\n",
		`{"client_id":"c","connected":false}`:                                "-\n",
	} {
		var b strings.Builder
		w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		if err := row(w, json.RawMessage(item), []column{{"offline for", "", offline}}); err != nil {
			t.Fatal(err)
		}
		if _ = w.Flush(); b.String() != want {
			t.Errorf("%s: %q, want %q", item, b.String(), want)
		}
	}
}

// Names that clients choose don't reach the terminal as they are.
func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"a b": "a b", "é": "é", "\x1b[2J": `"\x1b[2J"`, "a\tb": `"a\tb"`, "\u202e": `"\u202e"`} {
		if got := printable(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
