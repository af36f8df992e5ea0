package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// importOf translates a text, and checks that the result is read without problems.
func importOf(t *testing.T, text string) (yaml string, notes []string, unsafe bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml, all, err := ImportMosquitto(path)
	if err != nil {
		t.Fatal(err)
	}
	c := New()
	c.readYAML("imported.yaml", []byte(yaml))
	c.check()
	if len(c.problems) > 0 {
		t.Errorf("%s\nbecomes\n%s\nwhich has problems:\n%v", text, yaml, c.problems)
	}
	for _, n := range all {
		notes = append(notes, strings.TrimPrefix(n.Source.String(), filepath.Dir(path)+"/")+": "+n.Text)
		unsafe = unsafe || n.Unsafe
	}
	return yaml, notes, unsafe
}

func TestImportMosquitto(t *testing.T) {
	for _, c := range []struct {
		text   string
		want   []string // lines, in any order
		notes  []string // beginnings
		unsafe bool
	}{
		{text: "# nothing\n", want: []string{`address: "127.0.0.1:1883"`, "allow_anonymous: true", "store: memory", "inflight: 20", "queue_messages: 1020", "check_retain_source: true"}},
		{text: "port 1884\n", want: []string{`address: ":1884"`, "allow_anonymous: false"}},
		{text: "port 1884\nbind_address ::1\n", want: []string{`address: "[::1]:1884"`}},
		{
			text: "listener 1885\nlistener 0 /run/m.sock\nlistener 1886 127.0.0.1\nprotocol websockets\nmax_connections 7\nmount_point a/\nsocket_domain ipv4\n",
			want: []string{`address: ":1885"`, `address: "unix:/run/m.sock"`, `address: "127.0.0.1:1886"`, "protocol: websocket", "connections: 7", "network: tcp4", "mount_point: a/", "allow_anonymous: false"},
		},
		{
			text: "per_listener_settings true\nlistener 1\npassword_file /p\nlistener 2\nacl_file /a\nallow_anonymous true\nallow_zero_length_clientid false\nauto_id_prefix x-\n",
			want: []string{"allow_anonymous: true", "allow_anonymous: false", "- password_file:", "file: /p", "- acl_file:", "file: /a", "allow_empty_client_id: false", "auto_id_prefix: x-"},
		},
		{
			text: "password_file /p\nacl_file /a\nallow_anonymous false\nlistener 1\nuse_username_as_clientid true\nmax_qos 1\nmax_topic_alias 0\n",
			want: []string{"- password_file:", "- acl_file:", "username_as_client_id: true", "maximum_qos: 1", "topic_alias_maximum: none"},
		},
		{
			text: "listener 1\nlistener_allow_anonymous true\nlistener_auto_id_prefix y-\nmaximum_qos 0\nglobal_max_connections 9\nretained_persistence true\npersistence_file m-1.db\n",
			want: []string{"allow_anonymous: true", "allow_anonymous: false", "auto_id_prefix: y-", "maximum_qos: 0", "connections: 9", `store: "pebble:m-1-loopmq-data"`},
		},
		{
			text:  "listener 1\nprotocol websockets\nwebsockets_origin a.example\nwebsockets_origin https://b.example:9\nenable_proxy_protocol 2\n",
			want:  []string{`- "https://a.example"`, `- "http://a.example"`, `- "https://b.example:9"`, `- "0.0.0.0/0"`, `- "::/0"`},
			notes: []string{"mosquitto.conf:5: enable_proxy_protocol: it believes anybody"},
		},
		{text: "listener 1\nprotocol websockets\nwebsockets_origin x/y\n", notes: []string{"mosquitto.conf:3: websockets_origin", "mosquitto.conf:3: websockets_origin"}, unsafe: true},
		{text: "listener 1\nenable_proxy_protocol 3\n", notes: []string{`mosquitto.conf:2: enable_proxy_protocol "3"`}, unsafe: true},
		{text: "max_packet_size 19\n", want: []string{"packet_size: 20"}, notes: []string{"mosquitto.conf:1: max_packet_size 19: it is 20"}},
		{
			text:  "listener 1\ncafile /ca\ncertfile /c\nkeyfile /k\nallow_anonymous true\nuse_identity_as_username true\n",
			want:  []string{"chain: /ca", "- certificate: {}", "allow_anonymous: false"},
			notes: []string{"mosquitto.conf:1: a certificate as user name without require_certificate: nobody gets in"},
		},
		{
			text: "listener 8883\ncafile /ca\ncertfile /c\nkeyfile /k\ncrlfile /crl\nrequire_certificate true\nuse_identity_as_username true\ntls_version tlsv1.3\n",
			want: []string{"- certificate: /c", "key: /k", "chain: /ca", "client_ca: /ca", "require: true", "crl: /crl", `min_version: "1.3"`, "- certificate: {}"},
		},
		{
			text: "max_inflight_messages 0\nmax_inflight_bytes 1000\nmax_queued_messages 5\nmax_queued_bytes 4096\nqueue_qos0_messages true\nmax_packet_size 4096\n" +
				"message_size_limit 100\nmax_keepalive 60\nretain_available false\npersistent_client_expiration 2w\ncheck_retain_source false\n" +
				"upgrade_outgoing_qos true\nsys_interval 0\nset_tcp_nodelay true\npersistence true\npersistence_location /var/lib/m/\nautosave_interval 30\nlog_type warning\n",
			want: []string{
				"inflight_bytes: 1000", "queue_messages: 5", "queue_bytes: 4KiB", "queue_qos0: true", "packet_size: 4KiB", "payload_size: 100", "keep_alive: 1m",
				"retain_available: false", "session_expiry_interval: 14d", "upgrade_outgoing_qos: true", `sys_interval: "off"`,
				`store: "pebble:/var/lib/m/loopmq-data?sync=interval&interval=30s"`, "level: warn",
			},
		},
		{text: "listener x\n", notes: []string{`mosquitto.conf:1: listener "x": allowed: a port`}, unsafe: true},
		{text: "listener 1\nprotocol http\n", notes: []string{`mosquitto.conf:2: protocol "http": allowed: mqtt, websockets`}, unsafe: true},
		{text: "listener 1\nmount_point a\n", notes: []string{`mosquitto.conf:2: mount_point "a": allowed: `}, unsafe: true},
		{text: "listener 1\nrequire_certificate true\n", notes: []string{"mosquitto.conf:1: TLS needs certfile"}, unsafe: true},
		{text: "plugin /x.so\npsk_file /x\n", notes: []string{"mosquitto.conf:1: plugin: has no counterpart", "mosquitto.conf:2: psk_file: has no counterpart"}, unsafe: true},
		{text: "user m\npid_file /x\nlog_dest file /l\nlog_dest stderr\nconnection b\naddress h\ntopic # out\nciphers x\n", notes: []string{
			"mosquitto.conf:1: user: left to", "mosquitto.conf:2: pid_file: left to", "mosquitto.conf:3: log_dest file /l: the log goes", "mosquitto.conf:5: connection: there are no bridges", "mosquitto.conf:8: ciphers: has no counterpart",
		}},
		{text: "allow_anonymous perhaps\nmax_qos 3\npersistent_client_expiration 2\nsys_interval x\n", notes: []string{
			"mosquitto.conf:3: persistent_client_expiration", "mosquitto.conf:4: sys_interval", "mosquitto.conf:1: allow_anonymous", "mosquitto.conf:2: max_qos",
		}, unsafe: true},
		// What can't be read opens nothing.
		{text: "allow_anonymous perhaps\n", want: []string{"allow_anonymous: false"}, notes: []string{"mosquitto.conf:1: allow_anonymous"}, unsafe: true},
		{
			text: "listener 1\ncertfile /c\nkeyfile /k\ncafile /ca\nrequire_certificate perhaps\nallow_anonymous true\n", want: []string{`address: "off"`},
			notes: []string{"mosquitto.conf:5: require_certificate"}, unsafe: true,
		},
		{text: "listener 1\npsk_hint x\nallow_anonymous true\n", want: []string{`address: "off"`}, notes: []string{"mosquitto.conf:2: psk_hint: there are no"}, unsafe: true},
		{text: "listener 1\ncertfile\nallow_anonymous true\n", want: []string{`address: "off"`}, notes: []string{"mosquitto.conf:1: TLS needs certfile"}, unsafe: true},
		{
			text: "password_file\nacl_file\n", want: []string{`address: "off"`},
			notes: []string{"mosquitto.conf:1: password_file: the name", "mosquitto.conf:2: acl_file: the name"}, unsafe: true,
		},
		{text: "per_listener_settings 1\nlistener 1\nallow_anonymous false\nlistener 2\nallow_anonymous true\n", want: []string{"allow_anonymous: false", "allow_anonymous: true"}},
		{text: "per_listener_settings on\n", notes: []string{"mosquitto.conf:1: per_listener_settings"}, unsafe: true},
		{text: "include_dir /none/such\n", notes: []string{"mosquitto.conf:1: include_dir /none/such: no such"}, unsafe: true},
	} {
		yaml, notes, unsafe := importOf(t, c.text)
		for _, want := range c.want {
			if !strings.Contains(yaml, " "+want+"\n") && !strings.Contains("\n"+yaml, "\n"+want+"\n") {
				t.Errorf("%s\nbecomes\n%s\nwithout %q", c.text, yaml, want)
			}
		}
		if len(notes) != len(c.notes) || unsafe != c.unsafe {
			t.Errorf("%s: notes %q, unsafe %v, want %q, %v", c.text, notes, unsafe, c.notes, c.unsafe)
			continue
		}
		for i, want := range c.notes {
			if !strings.HasPrefix(notes[i], want) {
				t.Errorf("%s: note %q, want %q", c.text, notes[i], want)
			}
		}
	}
}

func TestImportIncludes(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"b.conf": "listener 2\n", "A.conf": "listener 1\nmax_qos 0\n", "other": "listener 3\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yaml, notes, _ := importOf(t, "allow_anonymous true\ninclude_dir "+dir+"\nmax_qos 1\n")
	one, two := strings.Index(yaml, `":1"`), strings.Index(yaml, `":2"`)
	if one < 0 || two < one || strings.Contains(yaml, ":3") || strings.Index(yaml, "maximum_qos: 1") < two || len(notes) > 0 {
		t.Errorf("notes %q, got\n%s", notes, yaml)
	}
	if _, _, err := ImportMosquitto(filepath.Join(dir, "none")); err == nil {
		t.Error("a file that isn't there is imported")
	}
}

// Whatever is imported is read without problems.
func FuzzImportMosquitto(f *testing.F) {
	f.Add("listener 1883\nallow_anonymous true\nmount_point a/\nmax_qos 1\n")
	f.Add("per_listener_settings true\nport 1\npassword_file x\nlistener 0 /s\ncertfile a\nkeyfile b\nrequire_certificate true\ncafile c\nuse_identity_as_username true\n")
	f.Add("persistence true\npersistence_location /x\nautosave_interval 1\npersistent_client_expiration 1y\nlog_type all\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include_dir") {
			return
		}
		m := importer{conf: conf{options: map[string]string{}}}
		m.read("mosquitto.conf", text, true)
		yaml := m.yaml()
		c := New()
		c.readYAML("imported.yaml", []byte(yaml))
		c.check()
		unsafe := false
		for _, n := range m.notes {
			unsafe = unsafe || n.Unsafe
		}
		if len(c.problems) > 0 && !unsafe {
			t.Errorf("%q becomes\n%s\nwhich has problems:\n%v", text, yaml, c.problems)
		}
	})
}
