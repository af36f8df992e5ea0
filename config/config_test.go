package config

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write the generated part of docs/configuration.md instead of comparing it")

// mustWrite writes a file that is called loopmq.yaml and returns its path.
func mustWrite(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "loopmq.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load is Load of a text, with paths of the problems cut to the name of the file.
func load(t *testing.T, text string, environ []string, flags ...Flag) (*Config, []string) {
	t.Helper()
	path := mustWrite(t, text)
	c, problems := Load(path, environ, flags)
	var lines []string
	for _, p := range problems {
		lines = append(lines, strings.ReplaceAll(p.Error(), filepath.Dir(path)+"/", ""))
	}
	return c, lines
}

func mustLoad(t *testing.T, text string, environ []string, flags ...Flag) *Config {
	t.Helper()
	c, problems := load(t, text, environ, flags...)
	if len(problems) > 0 {
		t.Fatalf("%s\nhas problems:\n%s", text, strings.Join(problems, "\n"))
	}
	return c
}

func TestDefaults(t *testing.T) {
	for name, c := range map[string]*Config{"nothing": mustLoad(t, "", nil), "empty sections": mustLoad(t, "log:\nlimits: {}\n", nil)} {
		if len(c.Listeners) != 2 || c.Listeners[0].Name != "tcp" || c.Listeners[0].Address != "127.0.0.1:1883" ||
			c.Listeners[1].Name != "ws" || c.Listeners[1].Address != "127.0.0.1:8083" || c.Listeners[1].Protocol != ProtocolWebSocket {
			t.Errorf("%s: listeners %+v", name, c.Listeners)
		}
		if c.Log.Level != slog.LevelInfo || c.Drain.Grace != 10*time.Second || c.Limits.PacketSize != 4<<20 || c.AllowAnonymous != nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestFileEnvironmentFlags(t *testing.T) {
	const text = `
# What holds here.
listeners:
  - name: tcp
    address: "127.0.0.1:1"
  - {name: second, address: "unix:/run/mqtt.sock"}
log:
  level: warn
  format: json
limits:
  packet_size: 1MiB
  queue_bytes: unlimited
  inflight: 12
drain: {grace: 500ms}
mqtt:
  sys_interval: off
  reason_strings: true
`
	c := mustLoad(t, text, []string{
		"PATH=/bin", "LOOPMQ_LOG_LEVEL=error", "LOOPMQ_LOG_FORMAT=text", "LOOPMQ_LISTENERS_1_NAME=two",
		"LOOPMQ_LISTENERS_2_ADDRESS=localhost:3", "LOOPMQ_LISTENERS_2_NAME=three", "LOOPMQ_CONFIG=elsewhere.yaml",
		"LOOPMQ_SERVICE_HOST=10.0.0.1", "LOOPMQ_PORT_1883_TCP=tcp://10.0.0.1:1883", "LOOPMQ_PORT=tcp://10.0.0.1:1883",
	}, Flag{"--log-level", "log.level", "debug"}, Flag{"--tcp", "@tcp", "127.0.0.1:9"}, Flag{"--new", "@new", "[::1]:0"})
	if c.Log.Level != slog.LevelDebug || c.Log.Format != "text" || c.Limits.PacketSize != 1<<20 || c.Limits.QueueBytes != -1 ||
		c.Limits.Inflight != 12 || c.Drain.Grace != 500*time.Millisecond || c.MQTT.SysInterval != -1 || !c.MQTT.ReasonStrings {
		t.Errorf("got %+v", c)
	}
	var got []string
	for _, l := range c.Listeners {
		got = append(got, l.Name+" "+l.Address)
	}
	if want := []string{"tcp 127.0.0.1:9", "two unix:/run/mqtt.sock", "three localhost:3", "new [::1]:0"}; !slices.Equal(got, want) {
		t.Errorf("listeners %q, want %q", got, want)
	}
	for path, want := range map[string]string{
		"log.level": "--log-level", "log.format": "LOOPMQ_LOG_FORMAT", "drain.grace": "loopmq.yaml:14", "store": "default",
		"listeners[1].name": "LOOPMQ_LISTENERS_1_NAME", "listeners[1].address": "loopmq.yaml:6", "listeners[0].name": "loopmq.yaml:4",
	} {
		if got := c.Source(path).String(); filepath.Base(got) != want {
			t.Errorf("%s comes from %q, want %q", path, got, want)
		}
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		text    string
		environ []string
		flags   []Flag
		want    []string // each a line, or its beginning
	}{
		{text: "log: {level: loud}", want: []string{`loopmq.yaml:1: log.level: "loud": allowed: debug, info, warn, error`}},
		{text: "log:\n  level: 5\n", want: []string{`loopmq.yaml:2: log.level: "5" is a number: put it in quotes if it is meant so: allowed: debug`}},
		{text: "log:\n  level:\n", want: []string{`loopmq.yaml:2: log.level: is empty: allowed: debug`}},
		{text: "log:\n  lvel: info\n", want: []string{`loopmq.yaml:2: log: unknown key "lvel"; did you mean level?: allowed: level, format`}},
		{text: "level: info\n", want: []string{`loopmq.yaml:1: unknown key "level"; did you mean log.level?: allowed: listeners, http, coap, admin`}},
		{text: "12: info\n", want: []string{`loopmq.yaml:1: unknown key "12": allowed`}},
		{text: "[a]: info\n", want: []string{`loopmq.yaml:1: `}},
		{text: "log: 5\n", want: []string{`loopmq.yaml:1: log: is a number: allowed: a mapping with keys, such as level`}},
		{text: "- a\n", want: []string{`loopmq.yaml:1: is a list: allowed: a mapping with keys, such as listeners`}},
		{text: "just text\n", want: []string{`loopmq.yaml:1: is text: allowed: a mapping`}},
		{text: "listeners: {}\n", want: []string{`loopmq.yaml:1: listeners: is a mapping: allowed: a list`}},
		{text: "listeners:\n", want: []string{`loopmq.yaml:1: listeners: is empty: allowed: a list`}},
		{text: "listeners:\n  - tcp\n", want: []string{`loopmq.yaml:2: listeners[0]: is text: allowed: a mapping with keys, such as name`, `loopmq.yaml:2: listeners[0].name: "": allowed`, `loopmq.yaml:2: listeners[0].address: "": allowed`}},
		{
			text: "listeners:\n  - name: a\n    address: localhost:1\n  - name: a\n    address: \"1883\"\n",
			want: []string{`loopmq.yaml:5: listeners[1].address: "1883": allowed: host:port`, `loopmq.yaml:4: listeners[1].name: "a": listeners[0] has the same name: allowed: a name of its own`},
		},
		{text: "listeners: [{name: \"a b\", address: \":1\"}]", want: []string{
			`loopmq.yaml:1: listeners[0].name: "a b": allowed: up to 32 letters`,
			`loopmq.yaml:1: listeners[0].address: ":1": anybody who reaches this address could connect, since nobody has to authenticate: allowed: a loopback address, or allow_anonymous: true with it`,
		}},
		{text: "log: {level: info}\nlog: {level: warn}\n", want: []string{`loopmq.yaml:2: log: was there before, on line 1`}},
		{text: "log: [1\n", want: []string{`loopmq.yaml:1: isn't YAML: `}},
		{text: "log: {}\n---\nlog: {}\n", want: []string{`loopmq.yaml:3: a second document: allowed: one`}},
		{text: "log: &l {level: info}\nstore: *l\n", want: []string{`loopmq.yaml:1: log: is an anchor or alias, which`, `loopmq.yaml:2: store: is an anchor or alias, which`}},
		{text: "store: !!str memory\n", want: []string{`loopmq.yaml:1: store: is a tag, which`}},
		{text: "store: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), want: []string{`loopmq.yaml:1: is nested too deeply: allowed: 32 levels`}},
		{text: "store:\n  " + strings.Repeat("- ", 100), want: []string{`loopmq.yaml:2: is nested too deeply: allowed: 32 levels`}},
		{text: "limits: {packet_size: 10, keep_alive: 1.5s, inflight: many, queue_messages: 0, topic_levels: true, drain: 1.5}", want: []string{
			`loopmq.yaml:1: limits.packet_size: "10": allowed: a size from 20 to 268435460, such as 4MiB`,
			`loopmq.yaml:1: limits.keep_alive: "1.5s": allowed: a duration such as 10s, from 1s to 18h12m15s, or unlimited`,
			`loopmq.yaml:1: limits.inflight: "many" is text: allowed: 1 to 65535`,
			`loopmq.yaml:1: limits.queue_messages: "0": allowed: 1 or more, or unlimited`,
			`loopmq.yaml:1: limits.topic_levels: "true" is true or false: put it in quotes if it is meant so: allowed: 1 to 65535, or unlimited`,
			`loopmq.yaml:1: limits: unknown key "drain"`,
		}},
		{
			text: "authentication: [{jwt: {secret_files: s, acl_claim: may}}]\nauthorization: [{acl_file: {file: f}}]\n",
			want: []string{`loopmq.yaml:1: authentication[0].jwt.acl_claim: "may": nothing looks at what it says on listeners[0]: allowed: with claims under authorization`},
		},
		{
			text: "authentication: [{jwt: {secret_files: s, acl_claim: may}}]\nauthorization: [{claims: {}}]\n" +
				"listeners: [{name: a, address: localhost:1}, {name: b, address: localhost:2, authorization: [{acl_file: {file: f}}]}]\n",
			want: []string{`loopmq.yaml:1: authentication[0].jwt.acl_claim: "may": nothing looks at what it says on listeners[1]`},
		},
		{text: "authentication: [{timeout: 1s}, {certificate: {}, jwt: {}}, {password_file: {}}]\nauthorization: [{claims: {a: 1}}]\n", want: []string{
			`loopmq.yaml:2: authorization[0].claims: unknown key "a": allowed: none`,
			`loopmq.yaml:1: authentication[2].password_file.file: "": allowed: the name of a file`,
			`loopmq.yaml:1: authentication[0]: has 0 of them: allowed: one of password_file, scram, jwt, http, certificate`,
			`loopmq.yaml:1: authentication[1]: has 2 of them: allowed: one of password_file`,
		}},
		{text: "listeners: [{name: admin, address: localhost:1}]", want: []string{`loopmq.yaml:1: listeners[0].name: "admin": allowed: a name that logs`}},
		{text: "authentication: [{http: {url: ftp://x/, headers: [nothing, \"X: secret\\nY: 1\"]}}]\nbans: {exempt: [10.0.0.0/8, 1.2.3]}\n", want: []string{
			`loopmq.yaml:1: authentication[0].http.url: "ftp://x/": allowed: an http or https URL`,
			`loopmq.yaml:1: authentication[0].http.headers[0]: "***": allowed: "NAME: VALUE", in quotes`,
			`loopmq.yaml:1: authentication[0].http.headers[1]: "***": allowed: "NAME: VALUE", in quotes`,
			`loopmq.yaml:2: bans.exempt[1]: "1.2.3": allowed: a network such as 10.0.0.0/8, or an address`,
		}},
		{text: "webhooks:\n  - name: a\n    url: https://x/\n    events: node.up\n    headers: {Authorization: Bearer x}\n", want: []string{
			`loopmq.yaml:5: webhooks[0].headers: is a mapping: allowed: a list of "NAME: VALUE", in quotes`,
		}},
		{text: "webhooks:\n  - name: a\n    url: https://x/\n    events: node.up\n    headers:\n      - Authorization: Bearer x\n", want: []string{
			`loopmq.yaml:6: webhooks[0].headers[0]: is a mapping: allowed: "NAME: VALUE", in quotes`,
		}},
		{text: "webhooks: [{name: a b, url: \"mqtt://x\", payload: xml, events: [], batch: {count: 0}}, {name: c, url: \"https://x/\"}, {name: c, url: \"https://y/\", replies: {qos: 3}}]", want: []string{
			`loopmq.yaml:1: webhooks[0].name: "a b": allowed: up to 32 letters`,
			`loopmq.yaml:1: webhooks[0].url: "mqtt://x": allowed: an http or https URL`,
			`loopmq.yaml:1: webhooks[0].payload: "xml": allowed: auto, json, text, base64, none`,
			`loopmq.yaml:1: webhooks[0].batch.count: "0": allowed: 1 to 10000`,
			`loopmq.yaml:1: webhooks[2].replies.qos: "3": allowed: 0 to 2`,
			`loopmq.yaml:1: webhooks[2].name: "c": webhooks[1] has the same name: allowed: a name of its own`,
		}},
		{text: "admin: {address: \":1\"}", want: []string{`loopmq.yaml:1: admin.address: ":1": anybody who reaches this address could connect`}},
		{text: "admin: {address: \":1\", allow_anonymous: true}", want: []string{`loopmq.yaml:1: admin.address: ":1": anybody who reaches this address could end connections and delete sessions: allowed: a loopback address, or with admin.tokens`}},
		{text: "admin: {address: \":1\", token_file: x}", want: []string{`loopmq.yaml:1: admin.address: ":1": tokens could be read on their way here: allowed: with admin.tls, or with admin.allow_plain_http: true`}},
		{text: "admin: {address: \":1\", token_file: x, allow_plain_http: true}"},
		{text: "admin: {address: \":1\", api: false, allow_anonymous: true}"},
		{text: "admin: {address: \":1\", certificates: [{name: ops}], tls: {certificates: [{certificate: a, key: b}], client_ca: c}}"},
		{text: "admin: {address: \"localhost:1\", certificates: [{field: cn}], tls: {min_version: 1.3}, tokens: [{name: a, role: king, sha256: secret}, {name: a, sha256: \"" + strings.Repeat("0", 64) + "\"}]}", want: []string{
			`loopmq.yaml:1: admin.tokens[0].role: "king": allowed: read, write`,
			`loopmq.yaml:1: admin.tokens[0].sha256: "***": allowed: 64 hexadecimal digits`,
			`loopmq.yaml:1: admin.certificates[0].name: "": allowed: a name`,
			`loopmq.yaml:1: admin.tls.certificates: is empty`,
			`loopmq.yaml:1: admin.tokens[1].name: "a": there is another token of this name`,
			`loopmq.yaml:1: admin.certificates: nothing verifies them: allowed: with admin.tls.client_ca`,
		}},
		{environ: []string{"LOOPMQ_CTL_URL=x", "LOOPMQ_CTL_TOKEN=y"}},
		{environ: []string{"LOOPMQ_LOG_LVEL=info"}, want: []string{`LOOPMQ_LOG_LVEL: there is no such variable; did you mean LOOPMQ_LOG_LEVEL?`}},
		{environ: []string{"LOOPMQ_LOG_LEVEL=loud"}, want: []string{`LOOPMQ_LOG_LEVEL: "loud": allowed: debug`}},
		{environ: []string{"LOOPMQ_LISTENERS_3_NAME=x"}, want: []string{`LOOPMQ_LISTENERS_3_NAME: listeners[3].name: listeners has 2 elements: allowed: an index from 0 to 2`}},
		{environ: []string{"LOOPMQ_LISTENERS_0_NAME_X=x"}, want: []string{`LOOPMQ_LISTENERS_0_NAME_X: there is no such variable`}},
		{environ: []string{"LOOPMQ_LISTENERS_00_NAME=x"}, want: []string{`LOOPMQ_LISTENERS_00_NAME: there is no such variable`}},
		{environ: []string{"LOOPMQ_LOG=x"}, want: []string{`LOOPMQ_LOG: there is no such variable`}},
		{environ: []string{"LOOPMQ_LOG_LEVEL=\xff"}, want: []string{`LOOPMQ_LOG_LEVEL: "\xff": allowed`}},
		{flags: []Flag{{"--tcp", "@tcp", "0.0.0.0:1"}}, want: []string{`--tcp "0.0.0.0:1": anybody who reaches this address could connect, since nobody has to authenticate: allowed: a loopback address, or --allow-anonymous with it`}},
		{flags: []Flag{{"--set log", "log", "x"}}, want: []string{`--set log log is a section: allowed: a key of it, such as log.level`}},
		{flags: []Flag{{"--set listeners", "listeners", "x"}}, want: []string{`--set listeners listeners is a list: allowed: a key of an element, such as listeners[0].name`}},
		{flags: []Flag{{"--set log.level.x", "log.level.x", "x"}}, want: []string{`--set log.level.x level has no keys below it`}},
		{flags: []Flag{{"--set lok.level", "lok.level", "x"}}, want: []string{`--set lok.level no key "lok"; did you mean log?`}},
		{flags: []Flag{{"--set log.[", "log.[", "x"}}, want: []string{`--set log.[ no key "["`}},
	} {
		_, got := load(t, c.text, c.environ, c.flags...)
		if len(got) != len(c.want) {
			t.Errorf("%s %q %q: problems\n%s\nwant %d", c.text, c.environ, c.flags, strings.Join(got, "\n"), len(c.want))
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(got[i], want) || strings.Contains(got[i], "\n") {
				t.Errorf("%s %q: problem\n%s\nwant\n%s", c.text, c.environ, got[i], want)
			}
		}
	}
}

func TestNoFile(t *testing.T) {
	_, problems := Load(filepath.Join(t.TempDir(), "none.yaml"), nil, nil)
	if len(problems) != 1 || !strings.HasSuffix(problems.Error(), "none.yaml: no such file or directory") {
		t.Errorf("got %v", problems)
	}
	if _, problems = Load(t.TempDir(), nil, nil); len(problems) != 1 || !strings.HasSuffix(problems.Error(), ": is a directory") {
		t.Errorf("got %v", problems)
	}
	if _, problems = Load(mustWrite(t, strings.Repeat("#", 1<<20+1)), nil, nil); len(problems) != 1 || !strings.HasSuffix(problems.Error(), ": is larger than 1MiB") {
		t.Errorf("got %v", problems)
	}
}

// What is printed is read as the same configuration, and shows no secret.
func TestPrint(t *testing.T) {
	c := mustLoad(t, "store: redis://user:secret@host:1/0\nmqtt: {response_information: \"a # \\\"b\\\" \\u0085: c\"}\nlimits: {keep_alive: 90s}\n", []string{"LOOPMQ_NODE_ID=123"})
	var b strings.Builder
	if err := c.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.Contains(text, "secret") {
		t.Errorf("a secret is shown:\n%s", text)
	}
	for _, want := range []string{"\nnode_id: \"123\" # LOOPMQ_NODE_ID\n", "\n  keep_alive: 1m30s # ", "loopmq.yaml:3\n", "  - name: tcp # default\n    address: \"127.0.0.1:1883\" # default\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q isn't in\n%s", want, text)
		}
	}
	again := mustLoad(t, strings.ReplaceAll(text, "…", "user:secret"), nil)
	if changes := Changes(c, again); len(changes) > 0 {
		t.Errorf("read again, these differ: %v", changes)
	}
}

// Of an endpoint neither what authorizes nor what its URL may hide is shown; all of it can be said by variables, and
// changes without a restart.
func TestWebhooks(t *testing.T) {
	const text = "webhooks:\n  - name: fn\n    url: https://user:secret@fn.example/hook?code=secret&a=b#secret\n    events: message.published\n    headers: \"Authorization: Bearer secret\"\n"
	c := mustLoad(t, text, []string{
		"LOOPMQ_WEBHOOKS_0_BATCH_COUNT=20", "LOOPMQ_WEBHOOKS_0_TLS_CA=ca.pem", "LOOPMQ_WEBHOOKS_0_REPLIES_TOPIC_FILTERS=a/#, b", "LOOPMQ_WEBHOOKS_1_NAME=two",
		"LOOPMQ_WEBHOOKS_1_URL=https://two.example/",
	})
	w := &c.Webhooks[0]
	if w.Batch.Count != 20 || w.TLS.CA != "ca.pem" || !slices.Equal(w.Replies.TopicFilters, []string{"a/#", "b"}) || w.MaxAge != 72*time.Hour || c.Webhooks[1].Name != "two" {
		t.Errorf("got %+v", c.Webhooks)
	}
	var b strings.Builder
	if err := c.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ReplaceAll(b.String(), "secret_files", ""), "secret") {
		t.Errorf("a secret is shown:\n%s", b.String())
	}
	if want := "https://…@fn.example/hook?…"; !strings.Contains(b.String(), want) {
		t.Errorf("%q isn't in\n%s", want, b.String())
	}
	for _, change := range Changes(New(), c) {
		if !change.Reload {
			t.Errorf("%s needs a restart", change.Path)
		}
	}
	w.TLS.CA, w.Replies.QoS = "other.pem", 1
	for _, change := range Changes(mustLoad(t, text, nil), c) {
		if !change.Reload {
			t.Errorf("%s needs a restart", change.Path)
		}
	}
}

// A list of values has all of them, in order, wherever it comes from.
func TestLists(t *testing.T) {
	const text = "listeners:\n  - name: a\n    address: localhost:1\n    proxy_protocol: [10.0.0.0/8, 192.0.2.1, \"::1\"]\nbans:\n  exempt: 10.1.2.3/8\n"
	c := mustLoad(t, text, []string{"LOOPMQ_LISTENERS_0_WEBSOCKET_ORIGINS=https://a.example, https://*.b.example"})
	if got := fmt.Sprint(c.Listeners[0].ProxyProtocol, c.Bans.Exempt, c.Listeners[0].WebSocket.Origins); got !=
		"[10.0.0.0/8 192.0.2.1/32 ::1/128] [10.0.0.0/8] [https://a.example https://*.b.example]" {
		t.Errorf("got %s", got)
	}
	var b strings.Builder
	if err := c.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	if changes := Changes(c, mustLoad(t, b.String(), nil)); len(changes) > 0 {
		t.Errorf("printed and read again, these differ: %v", changes)
	}
}

func TestChanges(t *testing.T) {
	a := mustLoad(t, "log: {level: info}\n", nil)
	b := mustLoad(t, "log: {level: warn, format: json}\nlisteners: []\n", nil)
	want := []Change{{"listeners", false}, {"log.format", false}, {"log.level", true}}
	if got := Changes(a, b); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Each key has a variable of its own, and its default is allowed.
func TestTable(t *testing.T) {
	c, seen := New(), map[string]string{}
	walkTemplate(c.nodes(), "", func(path string, n *node) {
		at := strings.ReplaceAll(path, "[]", "[0]")
		name := variable(at)
		if other, taken := seen[name]; taken {
			t.Errorf("%s is the variable of %s and of %s", name, other, path)
		}
		seen[name] = path
		if got, ok := pathOf(c.nodes(), strings.TrimPrefix(name, EnvironmentPrefix), ""); !ok || got != at {
			t.Errorf("%s stands for %q, want %q", name, got, at)
		}
		if foreign.MatchString(name) {
			t.Errorf("%s is taken for a variable of Kubernetes or of tests", name)
		}
		if n.doc == "" || n.leaf.kind == "" || n.leaf.allowed == "" || n.leaf.takes == 0 || strings.ContainsAny(n.doc+n.leaf.allowed, "|\n") {
			t.Errorf("%s isn't explained: %+v", path, n.leaf)
		}
		for _, v := range n.leaf.values() {
			if v != "" && !n.leaf.set([]string{v}) {
				t.Errorf("%s: the default %q isn't allowed", path, v)
			}
		}
	})
}

const (
	begin = "<!-- keys -->\n"
	end   = "<!-- end of keys -->\n"
)

func TestReference(t *testing.T) {
	const document = "../docs/configuration.md"
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks %q or %q", document, begin, end)
	}
	var want strings.Builder
	if err := WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		if err := os.WriteFile(document, []byte(before+begin+want.String()+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want.String() {
		t.Errorf("the tables of %s aren't those of this package: run go test ./config -rewrite", document)
	}
}

// No text makes the reader fail, and what it takes it prints so that it is read
// again as the same.
func FuzzLoad(f *testing.F) {
	f.Add("log: {level: info}\nlisteners:\n  - name: a\n    address: localhost:1\n", "LOOPMQ_LOG_LEVEL=warn")
	f.Add("listeners: [{name: a, address: \"unix:/x\"}]\nstore: memory\n", "LOOPMQ_LISTENERS_1_NAME=b")
	f.Add("a: &x [1, 2]\nb: *x\n? {c}\n: |\n  text\n", "LOOPMQ_STORE=pebble:x")
	f.Fuzz(func(t *testing.T, text, variable string) {
		c := New()
		c.readYAML("loopmq.yaml", []byte(text))
		c.readEnvironment([]string{variable})
		c.check()
		for _, p := range c.problems {
			if strings.Contains(p.Error(), "\n") {
				t.Errorf("a problem has several lines: %q", p.Error())
			}
		}
		if len(c.problems) > 0 {
			return
		}
		y := yamlWriter{}
		y.section(c.nodes(), "", "")
		again := New()
		again.readYAML("printed.yaml", []byte(y.String()))
		again.check()
		if len(again.problems) > 0 {
			t.Fatalf("%q is printed as\n%s\nwhich has problems:\n%v", text, y.String(), again.problems)
		}
		if changes := Changes(c, again); len(changes) > 0 {
			t.Fatalf("%q is printed as\n%s\nwhich differs at %v", text, y.String(), changes)
		}
	})
}
