package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
  --admin ADDR   the broker's --admin, as host:port (default 127.0.0.1:8081)

Prints "ok" and exits with 0 if it does, else says why not and exits with 1.
`

// runHealth is the command health.
func runHealth(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	address := "127.0.0.1:8081"
	flags := flag.NewFlagSet("health", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&address, "admin", address, "")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, healthUsage)
		return exitOK
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q: allowed: --admin host:port", flags.Arg(0))
	}
	if err == nil && !config.IsHostPort(address) {
		err = fmt.Errorf("--admin %q: allowed: host:port with a port from 0 to 65535", address)
	}
	if err != nil {
		fmt.Fprintf(stderr, "loopmq: health: %s\n", err)
		return exitUsage
	}
	if err := askReady(ctx, address); err != nil {
		fmt.Fprintf(stderr, "loopmq: health: %s\n", oneLine(err))
		return exitFailed
	}
	fmt.Fprintln(stdout, "ok")
	return exitOK
}

// askReady returns nil if /readyz of the admin listener at address says that the
// broker takes connections, or why it doesn't.
func askReady(ctx context.Context, address string) error {
	host, port, _ := net.SplitHostPort(address)
	if host == "" { // What listens on all addresses is asked at one of them.
		address = net.JoinHostPort("127.0.0.1", port)
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return err
	}
	// A client of its own: a proxy in the environment isn't meant for this.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) { // Leaves out "Get" and the URL.
			err = e.Err
		}
		return fmt.Errorf("%s: %w", address, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var problem struct{ Detail string }
	_ = json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(&problem) // Without it the status says enough.
	return fmt.Errorf("%s: /readyz: %s: %s", address, resp.Status, problem.Detail)
}
