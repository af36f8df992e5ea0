package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"loopmq/config"
)

// healthTimeout is how long a broker may take to answer; those who ask for its
// health (Docker, scripts) ask again every few seconds.
const healthTimeout = 5 * time.Second

const healthUsage = `Ask a running broker whether it takes connections.

Usage:
  loopmq health [flags]

Flags:
  --admin ADDR   the broker's --admin, as host:port, https://host:port or unix:PATH
                 (default 127.0.0.1:8081)
  --ca FILE      authorities of its certificate, PEM (default: those of the system)

Prints "ok" and exits with 0 if it does, else says why not and exits with 1.
`

// runHealth is the command health.
func runHealth(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	address := "127.0.0.1:8081"
	var t target
	flags := flag.NewFlagSet("health", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&address, "admin", address, "")
	flags.StringVar(&t.ca, "ca", "", "")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, healthUsage)
		return exitOK
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q: allowed: --admin host:port", flags.Arg(0))
	}
	where, encrypted := strings.CutPrefix(address, "https://")
	switch isSocket := strings.HasPrefix(address, "unix:"); {
	case err != nil:
	case !isSocket && !config.IsHostPort(where):
		err = fmt.Errorf("--admin %q: allowed: host:port with a port from 0 to 65535, https:// with that, unix:PATH", address)
	case isSocket:
		t.url = address
	default:
		t.url = "http://" + withHost(where)
		if encrypted {
			t.url = "https://" + withHost(where)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "loopmq: health: %s\n", err)
		return exitUsage
	}
	if err := askReady(ctx, t, where); err != nil {
		fmt.Fprintf(stderr, "loopmq: health: %s\n", oneLine(err))
		return exitFailed
	}
	fmt.Fprintln(stdout, "ok")
	return exitOK
}

// withHost returns an address to ask at: what listens on all addresses is asked at one
// of them.
func withHost(address string) string {
	if host, port, _ := net.SplitHostPort(address); host == "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

// askReady returns nil if /readyz of an admin listener says that the broker takes
// connections, or why it doesn't.
func askReady(ctx context.Context, t target, where string) error {
	api, err := t.connect(nil)
	if err != nil {
		return err
	}
	defer api.close()
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, api.base+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := api.http.Do(r)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) { // Leaves out "Get" and the URL.
			err = e.Err
		}
		var certificate *tls.CertificateVerificationError
		if errors.As(err, &certificate) {
			err = fmt.Errorf("%w: --ca FILE says whose certificates to believe", err)
		}
		return fmt.Errorf("%s: %w", where, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	var problem struct{ Detail string }
	_ = json.Unmarshal(text, &problem) // Without it the status says enough.
	// In net/http's words:
	if resp.StatusCode == http.StatusBadRequest && strings.Contains(string(text), "HTTPS server") {
		problem.Detail = "it speaks TLS: --admin https://" + where
	}
	return fmt.Errorf("%s: /readyz: %s: %s", where, resp.Status, problem.Detail)
}
