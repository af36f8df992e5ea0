package config

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Note is an option of a mosquitto.conf that has no counterpart.
type Note struct {
	Source Source
	Text   string
	// Unsafe: without it the broker might let in, or show, what it shouldn't.
	Unsafe bool
}

// ImportMosquitto returns what the file of a mosquitto broker says, as a YAML file of
// this one, and what of it could not be said. What mosquitto does where its file says
// nothing is said, too, where this broker does otherwise.
func ImportMosquitto(path string) (yaml string, notes []Note, err error) {
	text, err := readFile(path)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	m := importer{conf: conf{options: map[string]string{}}}
	m.read(path, string(text), true)
	return m.yaml(), m.notes, nil
}

// importer translates a mosquitto.conf.
type importer struct {
	conf      conf   // what was said before any listener
	listeners []conf // and of each one
	perOne    bool   // per_listener_settings
	logs      []string
	bridge    bool // within a bridge, whose options are left out
	notes     []Note
}

// conf is what was said of one listener, or of all.
type conf struct {
	options map[string]string
	source  Source
}

func (m *importer) note(at Source, unsafe bool, format string, args ...any) {
	m.notes = append(m.notes, Note{at, fmt.Sprintf(format, args...), unsafe})
}

// global are options of the broker as a whole; ofListener those of the listener that
// they follow; security those that are of one or the other, as per_listener_settings
// says.
var (
	globalOptions = []string{
		"max_inflight_messages", "max_inflight_bytes", "max_queued_messages", "max_queued_bytes", "queue_qos0_messages", "max_packet_size",
		"message_size_limit", "max_keepalive", "retain_available", "persistent_client_expiration", "check_retain_source",
		"upgrade_outgoing_qos", "sys_interval", "persistence", "persistence_location", "persistence_file", "autosave_interval", "connection_messages", "global_max_connections",
	}
	listenerOptions = []string{
		"port", "bind_address", "protocol", "max_connections", "max_qos", "max_topic_alias", "mount_point", "use_username_as_clientid",
		"use_identity_as_username", "use_subject_as_username", "cafile", "certfile", "keyfile", "crlfile", "require_certificate", "tls_version", "psk_hint",
		"socket_domain",
		"listener_allow_anonymous", "listener_auto_id_prefix", "enable_proxy_protocol", "websockets_origin",
	}
	securityOptions = []string{"allow_anonymous", "password_file", "acl_file", "allow_zero_length_clientid", "auto_id_prefix"}

	// What is known by two names.
	otherNames = map[string]string{"maximum_qos": "max_qos", "retained_persistence": "persistence"}

	// What it doesn't need.
	needless = []string{
		"set_tcp_nodelay", "packet_buffer_size", "autosave_on_changes", "allow_duplicate_messages", "log_timestamp", "log_timestamp_format", "log_facility",
		"websockets_log_level", "websockets_headers_size", "retry_interval", "store_clean_interval", "upgrade_qos", "dhparamfile", "tls_keyform",
	}
	bridgeOptions = []string{
		"connection", "address", "addresses", "topic", "bridge_attempt_unsubscribe", "bridge_bind_address", "bridge_max_packet_size",
		"bridge_outgoing_retain", "bridge_protocol_version", "cleansession", "idle_timeout", "keepalive_interval", "local_clientid", "local_password",
		"local_username", "notifications", "notification_topic", "remote_clientid", "clientid", "remote_password", "password", "remote_username", "username",
		"restart_timeout", "round_robin", "start_type", "threshold", "try_private", "bridge_alpn", "bridge_cafile", "bridge_capath", "bridge_certfile",
		"bridge_identity", "bridge_insecure", "bridge_keyfile", "bridge_psk", "bridge_require_ocsp", "bridge_tls_version", "local_cleansession",
	}
)

// read reads the lines of a file. Only the main one may include others.
func (m *importer) read(path, text string, main bool) {
	current := &m.conf
	if len(m.listeners) > 0 {
		current = &m.listeners[len(m.listeners)-1]
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		at := Source{path, n}
		option, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		value = strings.TrimSpace(value)
		if name, known := otherNames[option]; known {
			option = name
		}
		switch {
		case option == "" || option[0] == '#':
		case !isText(value) || !isText(option):
			m.note(at, true, "a line that isn't UTF-8")
		case option == "listener":
			m.bridge = false
			m.listeners = append(m.listeners, conf{map[string]string{"listener": value}, at})
			current = &m.listeners[len(m.listeners)-1]
		case option == "per_listener_settings":
			m.conf.options[option] = value
			m.options(&m.conf, option, at)
			m.perOne = m.truth(&m.conf, option, true)
		case option == "log_type":
			m.logs = append(m.logs, value)
		case slices.Contains(listenerOptions, option):
			if current == &m.conf {
				current.source = at
			}
			if more := current.options[option]; option == "websockets_origin" && more != "" {
				value = more + " " + value
			}
			current.options[option] = value
			m.options(current, option, at)
		case slices.Contains(securityOptions, option):
			if m.perOne {
				current.options[option] = value
			} else {
				m.conf.options[option] = value
			}
			m.options(current, option, at)
		case slices.Contains(globalOptions, option):
			m.conf.options[option] = value
			m.options(&m.conf, option, at)
		case option == "include_dir" && main:
			m.include(value, at)
			if len(m.listeners) > 0 {
				current = &m.listeners[len(m.listeners)-1]
			}
		case slices.Contains(needless, option):
		case option == "log_dest":
			if value != "stderr" && value != "stdout" {
				m.note(at, false, "log_dest %s: the log goes to standard error", value)
			}
		case option == "user" || option == "pid_file":
			m.note(at, false, "%s: left to what starts the broker, such as systemd", option)
		case slices.Contains(bridgeOptions, option):
			if !m.bridge {
				m.note(at, false, "%s: there are no bridges to other brokers", option)
			}
			m.bridge = true
		case option == "ciphers" || option == "ciphers_tls1.3" || option == "memory_limit" || option == "http_dir":
			m.note(at, false, "%s: has no counterpart", option)
		default:
			m.note(at, true, "%s: has no counterpart", option)
		}
	}
}

// options remembers where an option stands.
func (m *importer) options(c *conf, option string, at Source) {
	c.options["@"+option] = at.Name
	c.options["#"+option] = strconv.Itoa(at.Line)
}

func (c *conf) at(option string) Source {
	line, _ := strconv.Atoi(c.options["#"+option])
	return Source{c.options["@"+option], line}
}

// filesMax bounds what an include_dir brings.
const filesMax = 1000

func (m *importer) include(dir string, at Source) {
	files, err := filepath.Glob(filepath.Join(dir, "*.conf"))
	if err != nil || len(files) > filesMax {
		m.note(at, true, "include_dir %s: allowed: a directory with up to %d files", dir, filesMax)
		return
	}
	if _, err := os.Stat(dir); err != nil {
		m.note(at, true, "include_dir %s: %s", dir, plain(err))
	}
	slices.Sort(files)
	for _, f := range files {
		text, err := readFile(f)
		if err != nil {
			m.note(at, true, "include_dir: %s: %s", f, err)
			continue
		}
		m.read(f, string(text), false)
	}
}

// number returns a number that was said, or what holds otherwise.
func (m *importer) number(c *conf, option string, otherwise, least, most int) int {
	text, said := c.options[option]
	if !said {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		m.note(c.at(option), true, "%s %s: allowed: %d to %d", option, shown(text), least, most)
		return otherwise
	}
	return n
}

// truth returns whether something was said to be true, or what holds otherwise.
func (m *importer) truth(c *conf, option string, otherwise bool) bool {
	switch text, said := c.options[option]; {
	case !said:
		return otherwise
	case text == "true" || text == "1":
		return true
	case text == "false" || text == "0":
		return false
	default:
		m.note(c.at(option), true, "%s %s: allowed: true, false", option, shown(text))
		return otherwise
	}
}

// yaml writes what was read.
func (m *importer) yaml() string {
	c := New()
	c.Listeners = nil
	m.global(c)
	if m.hasDefault() {
		m.listener(c, &m.conf, m.defaultAddress())
	}
	for i := range m.listeners {
		l := &m.listeners[i]
		m.listener(c, l, m.address(l))
	}
	y := yamlWriter{brief: true}
	y.section(c.nodes(), "", "")
	return y.String()
}

// hasDefault reports whether there is a listener besides those that have a line of
// their own.
func (m *importer) hasDefault() bool {
	return len(m.listeners) == 0 || slices.ContainsFunc(listenerOptions, func(o string) bool {
		_, said := m.conf.options[o]
		return said
	})
}

// isLocal reports whether nothing was said of listeners: mosquitto is there for its
// own machine only, then, and lets anybody in.
func (m *importer) isLocal() bool {
	_, port := m.conf.options["port"]
	_, bound := m.conf.options["bind_address"]
	return len(m.listeners) == 0 && !port && !bound
}

func (m *importer) defaultAddress() string {
	port := strconv.Itoa(m.number(&m.conf, "port", 1883, 0, 65535))
	if m.isLocal() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return net.JoinHostPort(m.conf.options["bind_address"], port)
}

func (m *importer) address(l *conf) string {
	port, host, _ := strings.Cut(l.options["listener"], " ")
	host = strings.TrimSpace(host)
	n, err := strconv.Atoi(port)
	switch {
	case err != nil || n < 0 || n > 65535:
		m.note(l.source, true, "listener %s: allowed: a port from 0 to 65535", shown(port))
		return Off
	case n == 0 && host != "":
		return unixPrefix + host
	case host == "" && l.options["bind_address"] != "":
		host = l.options["bind_address"]
	}
	return net.JoinHostPort(host, port)
}

// global translates what holds for all listeners.
func (m *importer) global(c *Config) {
	o := &m.conf
	inflight := m.number(o, "max_inflight_messages", 20, 0, 65535)
	if inflight == 0 {
		inflight = 65535
	}
	c.Limits.Inflight, c.Limits.ReceiveMaximum = inflight, inflight
	// There what is in flight isn't part of the queue.
	c.Limits.QueueMessages = m.number(o, "max_queued_messages", 1000, 0, math.MaxInt32)
	switch {
	case c.Limits.QueueMessages == 0:
		c.Limits.QueueMessages = -1
	case inflight < 65535:
		c.Limits.QueueMessages += inflight
	}
	if c.Limits.QueueBytes = m.number(o, "max_queued_bytes", 0, 0, math.MaxInt); c.Limits.QueueBytes == 0 {
		c.Limits.QueueBytes = -1
	}
	c.Limits.PacketSize = m.number(o, "max_packet_size", 0, 0, 268435460)
	switch {
	case c.Limits.PacketSize == 0:
		c.Limits.PacketSize = 268435460
	case c.Limits.PacketSize < 20:
		m.note(o.at("max_packet_size"), false, "max_packet_size %d: it is 20, the smallest that there is", c.Limits.PacketSize)
		c.Limits.PacketSize = 20
	}
	c.Limits.Connections = max(0, m.number(o, "global_max_connections", -1, -1, 100_000_000))
	c.Limits.KeepAlive = time.Duration(m.number(o, "max_keepalive", 0, 0, 65535)) * time.Second
	c.Limits.SessionExpiryInterval = m.expiration(o)
	c.Limits.RetainedMessages, c.Limits.RetainedBytes = -1, -1
	if n := m.number(o, "sys_interval", 10, 0, 86400); n > 0 {
		c.MQTT.SysInterval = time.Duration(n) * time.Second
	} else {
		c.MQTT.SysInterval = -1
	}
	c.MQTT.CheckRetainSource = m.truth(o, "check_retain_source", true)
	c.MQTT.UpgradeOutgoingQoS = m.truth(o, "upgrade_outgoing_qos", false)
	if n := m.number(o, "message_size_limit", 0, 0, 268435455); n > 0 {
		c.Settings.PayloadSize = &n
	}
	if n := m.number(o, "max_inflight_bytes", 0, 0, 1<<40); n > 0 {
		c.Settings.InflightBytes = &n
	}
	if !m.truth(o, "retain_available", true) {
		c.Settings.RetainAvailable = new(bool)
	}
	if m.truth(o, "queue_qos0_messages", false) {
		yes := true
		c.Settings.QueueQoS0 = &yes
	}
	c.Store = m.store(o)
	c.Log.Level = m.level(o)
	if !m.perOne {
		m.security(o, &c.Settings, &c.AllowAnonymous, &c.Authentication, &c.Authorization)
	}
}

// expiration is a number and one of h, d, w, m and y.
func (m *importer) expiration(o *conf) time.Duration {
	text, said := o.options["persistent_client_expiration"]
	if !said {
		return 0
	}
	unit := map[string]time.Duration{"h": time.Hour, "d": day, "w": 7 * day, "m": 30 * day, "y": 365 * day}[text[max(0, len(text)-1):]]
	n, err := strconv.Atoi(text[:max(0, len(text)-1)])
	if err != nil || unit == 0 || n < 1 || n > 1_000_000 {
		m.note(o.at("persistent_client_expiration"), true, "persistent_client_expiration %s: allowed: a number and one of h, d, w, m, y", shown(text))
		return 0
	}
	return min(time.Duration(n)*unit, expiryMax)
}

func (m *importer) store(o *conf) string {
	if !m.truth(o, "persistence", false) {
		return "memory"
	}
	location := o.options["persistence_location"]
	if location == "" {
		location = "."
	}
	if strings.ContainsRune(location, '?') {
		m.note(o.at("persistence_location"), true, "persistence_location %s: allowed: a path without ?", shown(location))
		location = "."
	}
	// Brokers that share a location are told apart by their files.
	name := "loopmq-data"
	if f := o.options["persistence_file"]; f != "" && f != "mosquitto.db" && !strings.ContainsAny(f, "?/") {
		name = strings.TrimSuffix(f, ".db") + "-loopmq-data"
	}
	store := "pebble:" + filepath.Join(location, name)
	if n := m.number(o, "autosave_interval", 0, 0, math.MaxInt32); n > 0 {
		store += fmt.Sprintf("?sync=interval&interval=%ds", min(n, 60))
	}
	return store
}

func (m *importer) level(o *conf) (l slog.Level) {
	l = levels["info"]
	if len(m.logs) > 0 {
		l = levels["error"]
	}
	for _, text := range m.logs {
		switch text {
		case "all", "debug":
			l = min(l, levels["debug"])
		case "notice", "information", "subscribe", "unsubscribe", "websockets":
			l = min(l, levels["info"])
		case "warning":
			l = min(l, levels["warn"])
		}
	}
	if !m.truth(o, "connection_messages", true) {
		l = max(l, levels["warn"])
	}
	return l
}

// security translates what is of one listener or of all.
func (m *importer) security(o *conf, s *Settings, anonymous **bool, methods *[]Method, rules *[]Rule) {
	_, said := o.options["allow_anonymous"]
	allow := m.truth(o, "allow_anonymous", !said && m.isLocal()) // What can't be read lets nobody in.
	*anonymous = &allow
	if f := o.options["password_file"]; f != "" {
		p := fresh((*PasswordFile).keys)
		p.File = f
		method := *fresh((*Method).keys)
		method.PasswordFile = p
		*methods = []Method{method}
	}
	if f := o.options["acl_file"]; f != "" {
		*rules = []Rule{{ACLFile: &ACLFile{File: f}}}
	}
	if !m.truth(o, "allow_zero_length_clientid", true) {
		s.AllowEmptyClientID = new(bool)
	}
	if prefix, said := o.options["auto_id_prefix"]; said {
		s.AutoIDPrefix = &prefix
	}
}

// listener translates one listener.
func (m *importer) listener(c *Config, o *conf, address string) {
	l := *fresh((*Listener).keys)
	l.Name, l.Address = fmt.Sprintf("listener-%d", len(c.Listeners)+1), address
	if _, ok := listenAddress.parse(address); !ok {
		m.note(o.source, true, "an address %s: allowed: %s", shown(address), listenAddress.allowed)
		l.Address = Off
	}
	switch p := o.options["protocol"]; p {
	case "", "mqtt":
	case "websockets":
		l.Protocol = ProtocolWebSocket
		// It looks at neither.
		l.WebSocket.Path, l.WebSocket.Origins = "*", []string{"*"}
		if said := o.options["websockets_origin"]; said != "" {
			l.WebSocket.Origins = m.origins(o, said)
		}
	default:
		m.note(o.at("protocol"), true, "protocol %s: allowed: mqtt, websockets", shown(p))
		l.Address = Off
	}
	switch d := o.options["socket_domain"]; d {
	case "":
	case "ipv4":
		l.Network = "tcp4"
	case "ipv6":
		l.Network = "tcp6"
	default:
		m.note(o.at("socket_domain"), true, "socket_domain %s: allowed: ipv4, ipv6", shown(d))
	}
	l.Limits.Connections = max(0, m.number(o, "max_connections", -1, -1, 100_000_000))
	if qos := m.number(o, "max_qos", 2, 0, 2); qos < 2 {
		l.Settings.MaximumQoS = &qos
	}
	if n := m.number(o, "max_topic_alias", 10, 0, 65535); n != 10 {
		if n == 0 {
			n = -1
		}
		l.Settings.TopicAliasMaximum = &n
	}
	if p := o.options["mount_point"]; p != "" {
		if _, ok := mountPoint.parse(p); ok {
			l.Settings.MountPoint = &p
		} else {
			m.note(o.at("mount_point"), true, "mount_point %s: allowed: %s", shown(p), mountPoint.allowed)
			l.Address = Off
		}
	}
	if m.truth(o, "use_username_as_clientid", false) {
		yes := true
		l.Settings.UsernameAsClientID = &yes
	}
	if m.perOne {
		m.security(o, &l.Settings, &l.AllowAnonymous, &l.Authentication, &l.Authorization)
	}
	if _, said := o.options["listener_allow_anonymous"]; said {
		allow := m.truth(o, "listener_allow_anonymous", false)
		l.AllowAnonymous = &allow
	}
	if prefix, said := o.options["listener_auto_id_prefix"]; said {
		l.Settings.AutoIDPrefix = &prefix
	}
	if m.number(o, "enable_proxy_protocol", 0, 1, 2) > 0 {
		m.note(o.at("enable_proxy_protocol"), false, "enable_proxy_protocol: it believes anybody, as there: better name the balancers' networks in proxy_protocol")
		l.ProxyProtocol = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	m.tls(o, &l)
	of := o
	if !m.perOne {
		of = &m.conf
	}
	for _, option := range []string{"password_file", "acl_file"} {
		if file, said := of.options[option]; said && file == "" {
			m.note(of.at(option), true, "%s: the name of a file is missing: %s is off", option, l.Name)
			l.Address = Off
		}
	}
	c.Listeners = append(c.Listeners, l)
}

// origins are those that WebSocket listeners take connections from; of a bare host, by
// both schemes.
func (m *importer) origins(o *conf, said string) (origins []string) {
	for _, one := range strings.Fields(said) {
		each := []string{one}
		if one != "*" && one != "null" && !strings.Contains(one, "://") {
			each = []string{"https://" + one, "http://" + one}
		}
		for _, text := range each {
			if _, ok := origin.parse(text); ok {
				origins = append(origins, text)
			} else {
				m.note(o.at("websockets_origin"), true, "websockets_origin %s: allowed: %s", shown(one), origin.allowed)
			}
		}
	}
	return origins
}

// tls translates the files of a listener's TLS.
func (m *importer) tls(o *conf, l *Listener) {
	certificate, key, ca := o.options["certfile"], o.options["keyfile"], o.options["cafile"]
	require := m.truth(o, "require_certificate", false)
	if text, said := o.options["require_certificate"]; said && !require && text != "false" && text != "0" {
		l.Address = Off // It isn't known who may connect.
	}
	says := func(option string) bool { _, said := o.options[option]; return said }
	if says("psk_hint") {
		m.note(o.at("psk_hint"), true, "psk_hint: there are no pre-shared keys: the listener is off")
		l.Address = Off
		return
	}
	switch {
	case !says("certfile") && !says("keyfile") && !says("cafile") && !require:
		return
	case certificate == "" || key == "" || require && ca == "":
		m.note(o.source, true, "TLS needs certfile and keyfile, and require_certificate a cafile: the listener is off")
		l.Address = Off
		return
	}
	l.TLS = fresh((*TLS).keys)
	// It adds to the chain what it needs of the cafile.
	l.TLS.Certificates = []KeyPair{{certificate, key, ca}}
	if require {
		l.TLS.Require, l.TLS.ClientCA, l.TLS.CRL = true, ca, o.options["crlfile"]
	}
	switch v := o.options["tls_version"]; v {
	case "", "tlsv1.2":
	case "tlsv1.3":
		l.TLS.MinVersion = tls.VersionTLS13
	case "tlsv1.1", "tlsv1":
		m.note(o.at("tls_version"), false, "tls_version %s: the oldest is TLS 1.2", v)
	default:
		m.note(o.at("tls_version"), true, "tls_version %s: allowed: tlsv1.2, tlsv1.3", shown(v))
	}
	field := ""
	switch {
	case m.truth(o, "use_identity_as_username", false):
		field = "cn"
	case m.truth(o, "use_subject_as_username", false):
		field = "subject"
	}
	if field == "" {
		return
	}
	if !require { // It asks nobody for a certificate, so nobody has a name.
		m.note(o.source, false, "a certificate as user name without require_certificate: nobody gets in by this listener")
	}
	l.AllowAnonymous = new(bool)
	method := *fresh((*Method).keys)
	method.Certificate = &Certificate{Username: field}
	l.Authentication = []Method{method}
}
