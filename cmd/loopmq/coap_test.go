package main

import (
	"context"
	"crypto/x509"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// libcoap runs libcoap's client for some time at most, and returns what it printed.
func libcoap(t *testing.T, limit time.Duration, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "coap-client-openssl", args...).CombinedOutput() // what it prints tells
	return strings.TrimSpace(string(out))
}

// DTLS as the file says: keys and certificates are the users, and SIGHUP takes new ones.
func TestServeCoAPS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	replace := func(name, text string) {
		t.Helper()
		err := os.WriteFile(at(name+".new"), []byte(text), 0o600)
		if err == nil {
			err = os.Rename(at(name+".new"), at(name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, key := issue(t, dir, "ca", nil, nil)
	issue(t, dir, "server", ca, key)
	issue(t, dir, "device", ca, key)
	stolen, _ := issue(t, dir, "stolen", ca, key)
	revoke := func(certs ...*x509.Certificate) {
		t.Helper()
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		for _, c := range certs {
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(nil, list, ca, key)
		if err != nil {
			t.Fatal(err)
		}
		replace("crl", string(der))
	}
	revoke()
	replace("keys", "pump:"+"7365637265746b6579\n")
	p := mustServe(t, "--config", mustWrite(t, "loopmq.yaml", `
coap:
  authorization: [{acl_file: {file: `+mustWrite(t, "acl", "pattern readwrite %u/#\n")+`}}]
  dtls:
    address: 127.0.0.1:0
    psk_file: `+at("keys")+`
    tls: {certificates: [{certificate: `+at("server.pem")+`, key: `+at("server.key")+`}], client_ca: `+at("ca.pem")+`, crl: `+at("crl")+`}
`))
	url, _ := p.first["coaps"].(string)
	url = "coaps://" + url + "/ps/"
	for _, user := range []string{"pump", "device", "stolen"} {
		if !publish(t, p.tcp, "-r", "-t", user+"/x") {
			t.Fatal("it can't be published")
		}
	}
	observed := func(n string) {
		t.Helper()
		for end := time.Now().Add(patience); ; {
			if _, text := p.get(t, "/metrics"); strings.Contains(text, "\nloopmq_coap_observations "+n+"\n") {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("there aren't %s observations", n)
			}
		}
	}
	hangUp := func(event string) map[string]any {
		t.Helper()
		if err := p.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		return p.waitFor(t, event)
	}
	limit := patience
	psk := func(key, topic string) string {
		return libcoap(t, limit, "-u", "pump", "-k", key, "-m", "get", url+topic)
	}
	certificate := func(name, topic string) string {
		return libcoap(t, limit, "-c", at(name+".pem"), "-j", at(name+".key"), "-C", at("ca.pem"), "-m", "get", url+topic)
	}
	done := func(what, out string) {
		t.Helper()
		if out != "x" {
			t.Errorf("%s: %s", what, out)
		}
	}
	refused := func(what, out, why string) {
		t.Helper()
		if out == "x" || !strings.Contains(out, why) {
			t.Errorf("%s: got %q, want %q in it", what, out, why)
		}
	}
	done("by key", psk("secretkey", "pump/x"))
	refused("by key, elsewhere", psk("secretkey", "device/x"), "4.03")
	done("by certificate", certificate("device", "device/x"))
	refused("by certificate, elsewhere", certificate("device", "pump/x"), "4.03")
	done("the certificate that will be revoked", certificate("stolen", "stolen/x"))

	// Who observes with that certificate, and goes on with its session.
	ctx, cancel := context.WithTimeout(t.Context(), lifetime)
	defer cancel()
	observer := exec.CommandContext(ctx, "coap-client-openssl", "-s", "600", "-c", at("stolen.pem"), "-j", at("stolen.key"), "-C", at("ca.pem"), url+"stolen/x")
	said := make(chan string, 1)
	go func() {
		out, _ := observer.CombinedOutput()
		said <- string(out)
	}()
	observed("1")

	replace("keys", "pump:no key\n")
	if e := hangUp("reload_refused"); !strings.Contains(e["problems"].([]any)[0].(string), "coap.dtls.psk_file: ") || strings.Contains(e["problems"].([]any)[0].(string), "no key") {
		t.Errorf("problems %v", e["problems"])
	}
	done("with the old key, since the new file is wrong", psk("secretkey", "pump/x"))

	replace("keys", "pump:"+"6e65776b65796e6577\n")
	revoke(stolen)
	other, otherKey := issue(t, dir, "ca2", nil, nil)
	issue(t, dir, "server", other, otherKey)
	hangUp("reload")
	done("with the new key", psk("newkeynew", "pump/x"))
	done("with the new authority of the server", libcoap(t, limit, "-c", at("device.pem"), "-j", at("device.key"), "-C", at("ca2.pem"), "-m", "get", url+"device/x"))
	observed("0")
	limit = 2 * time.Second // the client doesn't see at once that it is refused
	var wait sync.WaitGroup
	wait.Go(func() { refused("with the old key", psk("secretkey", "pump/x"), "") })
	wait.Go(func() {
		out := libcoap(t, limit, "-c", at("stolen.pem"), "-j", at("stolen.key"), "-C", at("ca2.pem"), "-m", "get", url+"stolen/x")
		refused("with a revoked certificate", out, "")
	})
	wait.Go(func() { refused("with the old authority of the server", certificate("device", "device/x"), "") })
	wait.Wait()
	cancel()
	if out := <-said; !strings.Contains(out, "4.03") {
		t.Errorf("the observer with the revoked certificate: %q", out)
	}
}
