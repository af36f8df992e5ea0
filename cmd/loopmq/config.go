package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"loopmq"
	"loopmq/codec"
)

// off is the address that disables a listener.
const off = "off"

const (
	loopsMax = 1024
	graceMax = time.Hour

	drainRateMax = 1_000_000
)

const serveUsage = `Run the broker until SIGTERM or SIGINT.

Usage:
  loopmq serve [flags]

Flags:
  --tcp ADDR             MQTT over TCP, as host:port, or "off" (default 127.0.0.1:1883)
  --admin ADDR           /metrics, /livez, /readyz and /health, as host:port, or "off"
                         (default 127.0.0.1:8081)
  --allow-anonymous      allow addresses that are not loopback, though nobody has to
                         authenticate
  --store WHERE          where sessions and messages are kept: pebble:DIR, a directory that
                         is made if it isn't there (default pebble:./loopmq-data), or memory,
                         gone when the process ends. pebble:DIR?sync=always waits for the
                         disk before it acknowledges (default), ?sync=interval and ?sync=off
                         do not; docs/cli.md has the other parameters. redis://HOST:PORT/DB
                         (rediss:// with TLS, redis+sentinel://, redis+cluster://) is a Redis
                         that several nodes may share, see docs/cluster.md
  --loops N              number of event loops, 1 to 1024; 0 means one per core (default 0)
  --log-level LEVEL      debug, info, warn or error (default info)
  --log-format FORMAT    text or json (default text)
  --drain-wait DURATION  how long to go on after SIGTERM while /readyz fails already, so that
                         load balancers notice, such as 5s, up to 1h (default 0s)
  --drain-rate N         clients to disconnect per second then, up to 1000000; 0 means all
                         at once (default 0)
  --server-reference REF where 5.0 clients are told to go when they are disconnected, with
                         Use another server (0x9C); without it Server shutting down (0x8B)
  --grace DURATION       time allowed for shutting down when the clients are gone, such as
                         500ms or 10s, up to 1h (default 10s); a second signal ends the process at once
`

// config is what serve was asked to do.
type config struct {
	tcp, admin     string // host:port, or off.
	allowAnonymous bool
	store          string
	loops          int
	logLevel       slog.Level
	logFormat      string
	drain          loopmq.DrainOptions
	grace          time.Duration
}

// parseServe reads the flags of serve. problems are all that is wrong with them,
// each naming flag, value and what is allowed. help means that the usage was asked
// for, whatever else there was.
func parseServe(args []string) (c config, problems []string, help bool) {
	c = config{tcp: "127.0.0.1:1883", admin: "127.0.0.1:8081", store: "pebble:./loopmq-data", logFormat: "text", grace: 10 * time.Second}
	complain := func(format string, a ...any) { problems = append(problems, fmt.Sprintf(format, a...)) }

	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // What it would say stops at the first error.
	allowed := map[string]string{}
	// add declares a flag; set reports whether the value is allowed.
	add := func(name, allow string, set func(value string) bool) {
		allowed[name] = allow
		flags.Func(name, "", func(value string) error {
			if !set(value) {
				complain("--%s %q: allowed: %s", name, value, allow)
			}
			return nil
		})
	}
	const address = "host:port with a port from 0 to 65535, or off"
	add("tcp", address, func(v string) bool { c.tcp = v; return isAddress(v) })
	add("admin", address, func(v string) bool { c.admin = v; return isAddress(v) })
	allowed["store"] = storesAllowed
	flags.Func("store", "", func(v string) error {
		c.store = v
		for _, problem := range storeProblems(v) {
			complain("--store %s", problem)
		}
		return nil
	})
	add("loops", fmt.Sprintf("0 (one per core) to %d", loopsMax), func(v string) bool {
		n, err := strconv.Atoi(v)
		c.loops = n
		return err == nil && n >= 0 && n <= loopsMax
	})
	add("log-level", "debug, info, warn, error", func(v string) bool {
		level, known := map[string]slog.Level{
			"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
		}[v]
		c.logLevel = level
		return known
	})
	add("log-format", "text, json", func(v string) bool { c.logFormat = v; return v == "text" || v == "json" })
	add("drain-wait", fmt.Sprintf("a duration such as 5s, from 0s to %v", graceMax), func(v string) bool {
		d, err := time.ParseDuration(v)
		c.drain.Wait = d
		return err == nil && d >= 0 && d <= graceMax
	})
	add("drain-rate", fmt.Sprintf("0 (all at once) to %d", drainRateMax), func(v string) bool {
		n, err := strconv.Atoi(v)
		c.drain.Rate = n
		return err == nil && n >= 0 && n <= drainRateMax
	})
	add("server-reference", "1 to 65535 bytes of UTF-8", func(v string) bool {
		c.drain.ServerReference = v
		return v != "" && len(v) <= 65535 && codec.ValidUTF8String([]byte(v))
	})
	add("grace", fmt.Sprintf("a duration such as 10s, from 0s to %v", graceMax), func(v string) bool {
		d, err := time.ParseDuration(v)
		c.grace = d
		return err == nil && d >= 0 && d <= graceMax
	})
	flags.BoolFunc("allow-anonymous", "", func(v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			complain("--allow-anonymous %q: allowed: true, false", v)
		}
		c.allowAnonymous = b
		return nil
	})

	for len(args) > 0 {
		err := flags.Parse(args)
		rest := flags.Args()
		switch at := args[:len(args)-len(rest)]; {
		case errors.Is(err, flag.ErrHelp):
			return c, nil, true
		case err == nil && len(rest) > 0: // Stopped at what isn't a flag.
			complain("argument %q: allowed: flags only, see loopmq serve --help", rest[0])
			rest = rest[1:]
		case err != nil:
			name := strings.TrimLeft(at[len(at)-1], "-")
			if allow, known := allowed[name]; known {
				complain("--%s: needs a value: allowed: %s", name, allow)
				break
			}
			complain("%s: unknown flag, see loopmq serve --help", at[len(at)-1])
			if len(rest) > 0 && !strings.Contains(name, "=") && !strings.HasPrefix(rest[0], "-") {
				rest = rest[1:] // Its value, as far as one can tell.
			}
		}
		args = rest
	}

	if !c.allowAnonymous {
		for _, l := range []struct{ name, addr string }{{"tcp", c.tcp}, {"admin", c.admin}} {
			if isAddress(l.addr) && !isLoopback(l.addr) {
				complain("--%s %q: anybody who reaches this address could connect, since nobody has to authenticate: "+
					"allowed: a loopback address, or --allow-anonymous with it", l.name, l.addr)
			}
		}
	}
	return c, problems, false
}

// isAddress reports whether s is host:port, with a number for the port, or off.
// Whether the host exists shows when it is listened on.
func isAddress(s string) bool {
	if s == off {
		return true
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, " /") {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// isLoopback reports whether only this machine can reach an address for which
// isAddress is true. Of names, only localhost is taken to be so: what another
// one resolves to can change.
func isLoopback(s string) bool {
	if s == off {
		return true
	}
	host, _, _ := net.SplitHostPort(s)
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
