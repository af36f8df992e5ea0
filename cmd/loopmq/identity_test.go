package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// mustWrite writes a file and returns its path.
func mustWrite(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mosquitto runs a client of mosquitto against a listener, and reports whether it
// was let in.
func mosquitto(t *testing.T, address, command string, args ...string) (output string, ok bool) {
	t.Helper()
	host, port, _ := strings.Cut(address, ":")
	out, err := exec.CommandContext(t.Context(), "mosquitto_"+command, append([]string{"-h", host, "-p", port, "-W", "100"}, args...)...).CombinedOutput()
	return string(out), err == nil
}

// publish reports whether a client with these flags may connect, and publish.
func publish(t *testing.T, address string, args ...string) bool {
	t.Helper()
	host, port, _ := strings.Cut(address, ":")
	out, err := exec.CommandContext(t.Context(), "mosquitto_pub", append([]string{"-h", host, "-p", port, "-V", "5", "-q", "1", "-m", "x"}, args...)...).CombinedOutput()
	return err == nil && !strings.Contains(string(out), "Warning")
}

func mustPasswords(t *testing.T, path string, users ...string) {
	t.Helper()
	for _, user := range users {
		if out, err := exec.CommandContext(t.Context(), "mosquitto_passwd", "-b", path, user, "secret-"+user).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_passwd: %v\n%s", err, out)
		}
	}
}

// waitFor returns the next event of a name in the log of a process.
func (p *process) waitFor(t *testing.T, event string) map[string]any {
	t.Helper()
	for line := range p.lines {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err == nil && e["msg"] == event {
			return e
		}
	}
	t.Fatalf("the log has no %q", event)
	return nil
}

// Passwords, rules and bans come from files, and SIGHUP reads them again: all or
// nothing.
func TestServeIdentity(t *testing.T) {
	passwords, acl, bans := mustWrite(t, "passwd", ""), mustWrite(t, "acl", "user alice\ntopic write a\n"), mustWrite(t, "bans", "client_id evil\n")
	mustPasswords(t, passwords, "alice", "bob")
	file := mustWrite(t, "loopmq.yaml", `
authentication:
  - password_file: {file: `+passwords+`}
authorization:
  - acl_file: {file: `+acl+`}
bans: {file: `+bans+`}
`)
	p := mustServe(t, "--config", file)
	expect := func(name string, want bool, args ...string) {
		t.Helper()
		if got := publish(t, p.tcp, args...); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	alice := []string{"-u", "alice", "-P", "secret-alice", "-t", "a"}
	expect("alice", true, alice...)
	expect("alice at another topic", false, "-u", "alice", "-P", "secret-alice", "-t", "b")
	expect("bob, who may nothing", false, "-u", "bob", "-P", "secret-bob", "-t", "a")
	expect("a wrong password", false, "-u", "alice", "-P", "secret-bob", "-t", "a")
	expect("nobody", false, "-t", "a")
	expect("banned", false, append(alice, "-i", "evil")...)
	if code, body := p.get(t, "/api/v1/bans"); code != 200 || !strings.Contains(body, `"evil"`) {
		t.Errorf("/bans: %d %s", code, body)
	}

	// One file is wrong: nothing changes.
	rewrite := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hangup := func() {
		t.Helper()
		if err := p.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(bans, "")
	rewrite(acl, "no rule\n")
	hangup()
	refused := p.waitFor(t, "reload_refused")
	if problems, _ := refused["problems"].([]any); len(problems) != 1 || !strings.Contains(problems[0].(string), "authorization[0].acl_file.file: ") {
		t.Errorf("problems %v", refused["problems"])
	}
	expect("banned still", false, append(alice, "-i", "evil")...)
	expect("alice still", true, alice...)

	rewrite(acl, "user bob\ntopic write a\n")
	rewrite(file, "authentication:\n  - password_file: {file: "+passwords+"}\nauthorization:\n  - acl_file: {file: "+acl+"}\nbans: {file: "+bans+"}\nlog: {level: warn}\nnode_id: other\n")
	hangup()
	reload := p.waitFor(t, "reload")
	if !slices.Equal(reload["changed"].([]any), []any{"log.level"}) || !slices.Equal(reload["need_restart"].([]any), []any{"node_id"}) {
		t.Errorf("reload %v", reload)
	}
	expect("bob, by new rules", true, "-u", "bob", "-P", "secret-bob", "-t", "a", "-i", "evil")
	expect("alice, by new rules", false, alice...)

	// Each packet is an event from now on.
	rewrite(file, "authentication:\n  - password_file: {file: "+passwords+"}\nauthorization:\n  - acl_file: {file: "+acl+"}\nbans: {file: "+bans+"}\nlog: {level: debug}\n")
	hangup()
	p.waitFor(t, "reload")
	expect("bob, logged", true, "-u", "bob", "-P", "secret-bob", "-t", "a")
	p.waitFor(t, "publish")

	// A wrong configuration changes nothing.
	rewrite(file, "log: {level: loud}\n")
	hangup()
	if refused := p.waitFor(t, "reload_refused"); !strings.Contains(refused["problems"].([]any)[0].(string), "log.level") {
		t.Errorf("problems %v", refused["problems"])
	}
}

// Who is no longer in the password file is disconnected by the reload.
func TestReloadDisconnectsRemovedUsers(t *testing.T) {
	t.Parallel()
	passwords := mustWrite(t, "passwd", "")
	mustPasswords(t, passwords, "alice", "bob")
	p := mustServe(t, "--set", "authentication[0].password_file.file="+passwords)
	ended := make(chan string, 2)
	for _, user := range []string{"alice", "bob"} {
		go func() {
			_, _ = mosquitto(t, p.tcp, "sub", "-V", "5", "-t", "x", "-u", user, "-P", "secret-"+user, "-i", user, "-C", "1")
			ended <- user
		}()
	}
	for range 2 {
		p.waitFor(t, "v5_connect")
	}
	if out, err := exec.CommandContext(t.Context(), "mosquitto_passwd", "-D", passwords, "alice").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if e := p.waitFor(t, "disconnect"); e["client_id"] != "alice" {
		t.Errorf("disconnected %v", e)
	}
	if !publish(t, p.tcp, "-t", "x", "-u", "bob", "-P", "secret-bob") {
		t.Error("bob can't publish")
	}
	for user := range ended { // alice tries again and again, in vain
		if user == "bob" {
			break
		}
	}
}

// What is wrong with a file is said with its key, and the exit code is 1.
func TestServeIdentityErrors(t *testing.T) {
	empty := mustWrite(t, "empty", "")
	for set, want := range map[string]string{
		"authentication[0].password_file.file=/none":   "authentication[0].password_file.file: ",
		"authentication[0].scram.file=/none":           "authentication[0].scram.file: ",
		"authentication[0].jwt.key_files=/none":        "authentication[0].jwt: ",
		"authentication[0].jwt.tls.ca=/none":           "authentication[0].jwt.tls: ca: ",
		"authentication[0].http.url=http://192.0.2.1/": "authentication[0].http: ",
		"authorization[0].acl_file.file=/none":         "authorization[0].acl_file.file: ",
		"authorization[0].http.url=http://192.0.2.1/":  "authorization[0].http: ",
		"bans.file=/none":                              "bans: ",
	} {
		code, _, stderr := call(t, "serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "off", "--coap", "off", "--admin", "off", "--store", "memory", "--set", set)
		if code != 1 || !strings.HasPrefix(stderr, "loopmq: "+want) {
			t.Errorf("%s: exit %d, %s", set, code, stderr)
		}
	}
	for _, c := range [][2]string{{"authentication[0].http.tls.ca=" + empty, "has no certificate"}, {"authentication[0].http.tls.key=" + empty, "certificate: "}} {
		code, _, stderr := call(t, "serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "off", "--coap", "off", "--admin", "off", "--store", "memory", "--set", c[0], "--set", "authentication[0].http.url=https://localhost/")
		if code != 1 || !strings.Contains(stderr, c[1]) {
			t.Errorf("%s: exit %d, %s", c[0], code, stderr)
		}
	}
}

// Limits and WebSocket are the file's, and limits change by SIGHUP.
func TestServeLimits(t *testing.T) {
	const text = "limits: {address: {connections: 1}, packet_size: 1KiB}\nlisteners:\n" +
		"  - {name: tcp, address: \"127.0.0.1:0\"}\n  - {name: web, address: \"127.0.0.1:0\", protocol: websocket, websocket: {path: /other}, limits: {connections: 5}}\n"
	file := mustWrite(t, "loopmq.yaml", text)
	p := mustServe(t, "--config", file)
	if p.first["web"] == nil || p.first["tcp"] == nil {
		t.Fatalf("first line %v", p.first)
	}
	get := func(path string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.first["web"].(string)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{
			"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
			"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "mqtt",
		} {
			r.Header.Set(name, value)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	mustConnect(t, p.tcp)
	if publish(t, p.tcp, "-t", "x") {
		t.Error("a second client from an address could publish")
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "{connections: 1}", "{connections: 10}")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if reload := p.waitFor(t, "reload"); !slices.Equal(reload["changed"].([]any), []any{"limits.address.connections"}) || reload["need_restart"] != nil {
		t.Errorf("reload %v", reload)
	}
	if !publish(t, p.tcp, "-t", "x") {
		t.Error("with other limits a client can't publish")
	}
	if got := get("/other"); got != http.StatusSwitchingProtocols {
		t.Errorf("WebSocket: %d", got)
	}
	if got := get("/mqtt"); got != http.StatusNotFound {
		t.Errorf("WebSocket at another path: %d", got)
	}
}
