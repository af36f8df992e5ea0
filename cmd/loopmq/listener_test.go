package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// issue writes a certificate NAME.pem and its key NAME.key, signed by an authority, or
// by itself if that is nil.
func issue(t *testing.T, dir, name string, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if by == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		by, byKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), byKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TLS by flags, with the user name of a client's certificate by the file; a bad new
// certificate is refused by SIGHUP.
func TestServeTLS(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca, key := issue(t, dir, "ca", nil, nil)
	issue(t, dir, "server", ca, key)
	issue(t, dir, "device", ca, key)
	acl := mustWrite(t, "acl", "user device\ntopic write a\n")
	file := mustWrite(t, "loopmq.yaml", `
listeners:
  - name: mutual
    address: 127.0.0.1:0
    tls: {certificates: [{certificate: `+at("server.pem")+`, key: `+at("server.key")+`}], client_ca: `+at("ca.pem")+`, require: true, min_version: 1.2}
    authentication: [{certificate: {}}]
    authorization: [{acl_file: {file: `+acl+`}}]
`)
	p := mustServe(t, "--config", file, "--certificate", at("server.pem"), "--key", at("server.key"), "--tls", "127.0.0.1:0")
	plain, _ := p.first["tls"].(string)
	mutual, _ := p.first["mutual"].(string)
	trust, mine := []string{"--cafile", at("ca.pem")}, []string{"--cert", at("device.pem"), "--key", at("device.key")}
	for _, c := range []struct {
		name, address string
		want          bool
		args          []string
	}{
		{"by TLS", plain, true, append(trust, "-t", "x")},
		{"without TLS", plain, false, []string{"-t", "x"}},
		{"with a certificate", mutual, true, append(append(trust, mine...), "-t", "a")},
		{"with a certificate, elsewhere", mutual, false, append(append(trust, mine...), "-t", "b")},
		{"without a certificate", mutual, false, append(trust, "-t", "a")},
		{"at the listener without rules", p.tcp, true, []string{"-t", "b"}},
	} {
		if got := publish(t, c.address, c.args...); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if err := os.WriteFile(at("server.pem"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if e := p.waitFor(t, "reload_refused"); !strings.Contains(e["problems"].([]any)[0].(string), "listeners[0].tls: ") {
		t.Errorf("problems %v", e["problems"])
	}
	if !publish(t, plain, append(trust, "-t", "x")...) {
		t.Error("with a bad new certificate the old one is gone")
	}
}

func TestServeTLSErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--certificate x":          `--certificate "x": allowed: with --tls or --wss`,
		"--tls 127.0.0.1:0":        `--tls "127.0.0.1:0": there is no certificate or no key: allowed: with --certificate FILE and --key FILE`,
		"--wss :0 --certificate x": `--wss ":0": there is no certificate or no key: allowed: with --key FILE`,
	} {
		code, _, stderr := call(t, append([]string{"serve", "--store", "memory"}, strings.Fields(args)...)...)
		if code != 2 || strings.Count(stderr, want) != 1 || strings.Contains(stderr, "listeners[") {
			t.Errorf("%s: exit %d, %s", args, code, stderr)
		}
	}
}

// What a mosquitto.conf says holds: mosquitto's clients see what they would there.
func TestServeImported(t *testing.T) {
	passwords := mustWrite(t, "passwd", "")
	mustPasswords(t, passwords, "alice")
	conf := mustWrite(t, "mosquitto.conf", `
per_listener_settings true
sys_interval 0
message_size_limit 100
listener 0 `+filepath.Join(t.TempDir(), "open.sock")+`
allow_anonymous true
mount_point tenant/
listener 0 `+filepath.Join(t.TempDir(), "closed.sock")+`
password_file `+passwords+`
`)
	code, yaml, stderr := call(t, "config", "import", conf)
	if code != 0 || stderr != "" {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	// mosquitto's clients here don't know unix sockets.
	var lines []string
	for line := range strings.Lines(yaml) {
		if i := strings.Index(line, "address: "); i >= 0 {
			line = line[:i] + "address: \"127.0.0.1:0\"\n"
		}
		lines = append(lines, line)
	}
	p := mustServe(t, "--config", mustWrite(t, "loopmq.yaml", strings.Join(lines, "")))
	open, _ := p.first["listener-1"].(string)
	closed, _ := p.first["listener-2"].(string)
	got := make(chan string, 1)
	go func() {
		out, _ := mosquitto(t, closed, "sub", "-t", "#", "-v", "-C", "1", "-u", "alice", "-P", "secret-alice")
		got <- out
	}()
	p.waitFor(t, "v3_connect")
	for received := false; !received; { // until its SUBSCRIBE has arrived
		if !publish(t, open, "-t", "x") {
			t.Fatal("a client without a name can't publish")
		}
		select {
		case out := <-got:
			if received = true; out != "tenant/x x\n" {
				t.Errorf("got %q, want what was published below the mount point", out)
			}
		default:
		}
	}
	if publish(t, closed, "-t", "x") {
		t.Error("a client without a name is let in where there are passwords")
	}
}

func TestConfigCommand(t *testing.T) {
	good, bad := mustWrite(t, "good.yaml", "log: {level: warn}\n"), mustWrite(t, "bad.yaml", "log: {level: loud}\nstore: nowhere\n")
	conf := mustWrite(t, "mosquitto.conf", "plugin x.so\n")
	acl := mustWrite(t, "acl", "tpic a\n")
	files := mustWrite(t, "files.yaml", `listeners:
  - {name: a, address: 127.0.0.1:0}
  - {name: b, address: 127.0.0.1:0, tls: {certificates: [{certificate: /none, key: /none}]}}
authentication: [{password_file: {file: /none}}, {jwt: {}}]
authorization: [{acl_file: {file: `+acl+`}}]
`)
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"config", "check", good}, 0, "ok\n", ""},
		{[]string{"config", "check"}, 0, "ok\n", ""},
		{[]string{"config", "check", bad}, 2, "", `log.level: "loud": allowed: debug`},
		{[]string{"config", "check", bad}, 2, "", `bad.yaml:2: store: "nowhere": allowed: memory`},
		{[]string{"config", "check", good, "--log-level", "loud"}, 2, "", `--log-level "loud"`},
		{[]string{"config", "check", files}, 2, "", "loopmq: authentication[0].password_file.file: open /none"},
		{[]string{"config", "check", files}, 2, "", "\nloopmq: authentication[1].jwt: jwt: no keys"},
		{[]string{"config", "check", files}, 2, "", `acl:1: "tpic": allowed: user`},
		{[]string{"config", "check", files}, 2, "", "\nloopmq: listeners[1].tls: "},
		{[]string{"config", "check", files, "--set", "bans.file=/none"}, 2, "", "loopmq: bans: open /none"},
		{[]string{"config", "print", good, "--log-format=json"}, 0, "  format: json # --log-format\n", ""},
		{[]string{"config", "print", bad}, 2, "", `"loud"`},
		{[]string{"config", "reference"}, 0, "| `level` | word |", ""},
		{[]string{"config", "reference", "x"}, 2, "", `argument "x"`},
		{[]string{"config", "import", conf}, 1, "listeners:", "mosquitto.conf:1: plugin: has no counterpart (see to it"},
		{[]string{"config", "import"}, 2, "", "0 arguments"},
		{[]string{"config", "import", "/none"}, 1, "", "/none: no such file"},
		{[]string{"config", "help"}, 2, "", `command "help": allowed: check, print, reference, import`},
		{[]string{"config"}, 2, "", "Usage:"},
		{[]string{"config", "--help"}, 0, configUsage, ""},
		{[]string{"config", "check", "--help"}, 0, configUsage, ""},
		{[]string{"help", "config"}, 0, configUsage, ""},
	} {
		code, stdout, stderr := call(t, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || (c.stderr == "") != (stderr == "") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", c.args, code, stdout, stderr)
		}
	}
	t.Setenv("LOOPMQ_CONFIG", bad)
	if code, _, stderr := call(t, "config", "check"); code != 2 || !strings.Contains(stderr, "bad.yaml") {
		t.Errorf("LOOPMQ_CONFIG isn't read: exit %d, %s", code, stderr)
	}
}

// Who is connected with a certificate that a new list revokes is disconnected; others
// of the listener stay.
func TestServeRevokes(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca, key := issue(t, dir, "ca", nil, nil)
	issue(t, dir, "server", ca, key)
	stolen, _ := issue(t, dir, "stolen", ca, key)
	issue(t, dir, "device", ca, key)
	revoke := func(certs ...*x509.Certificate) {
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		for _, c := range certs {
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, ca, key)
		if err == nil {
			err = os.WriteFile(at("crl.new"), der, 0o600)
		}
		if err == nil {
			err = os.Rename(at("crl.new"), at("crl"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	revoke()
	p := mustServe(t, "--config", mustWrite(t, "loopmq.yaml", `
listeners:
  - name: mutual
    address: 127.0.0.1:0
    tls: {certificates: [{certificate: `+at("server.pem")+`, key: `+at("server.key")+`}], client_ca: `+at("ca.pem")+`, crl: `+at("crl")+`, require: true}
`))
	address, _ := p.first["mutual"].(string)
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	connect := func(name string) net.Conn {
		pair, err := tls.LoadX509KeyPair(at(name+".pem"), at(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(patience))
		mustAccept(t, c, name)
		return c
	}
	thief, honest := connect("stolen"), connect("device")
	revoke(stolen)
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(thief)
	if err != nil || !bytes.HasPrefix(said, []byte{0xE0}) || said[2] != 0x87 {
		t.Errorf("the revoked client got % x, %v, want DISCONNECT with 0x87 and the end", said, err)
	}
	p.waitFor(t, "reload")
	answer := make([]byte, 2)
	if _, err := honest.Write([]byte{0xC0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(honest, answer); err != nil || answer[0] != 0xD0 {
		t.Errorf("the other client got % x, %v, want PINGRESP", answer, err)
	}
}
