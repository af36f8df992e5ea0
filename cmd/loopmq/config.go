package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"loopmq/config"
)

// off is the address that disables a listener.
const off = config.Off

const serveUsage = `Run the broker until SIGTERM or SIGINT.

Usage:
  loopmq serve [flags]

Flags:
  --config FILE          YAML file; docs/configuration.md lists its keys. Variables LOOPMQ_…
                         of the environment go before it, flags before both
  --set ASSIGNMENT       KEY=VALUE for any key of the file, such as limits.packet_size=1MiB;
                         may be repeated
  --tcp ADDR             MQTT over TCP, as host:port, unix:PATH, or "off" (default 127.0.0.1:1883)
  --tls ADDR             MQTT over TLS, the same; it needs --certificate and --key (default off)
  --ws ADDR              MQTT over WebSocket at /mqtt, the same (default 127.0.0.1:8083); that
                         is left out if another program has the port
  --wss ADDR             MQTT over WebSocket and TLS, the same as --tls (default off)
  --certificate FILE     the server's certificate, PEM, for --tls and --wss
  --key FILE             its key
  --http ADDR            the HTTP API, as host:port, or "off" (default 127.0.0.1:8080)
  --coap ADDR            CoAP over UDP, the same (default 127.0.0.1:5683); that is left out if
                         another program has the port
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
  --engine NAME          what carries connections: gnet or netpoll (default gnet); netpoll costs more,
                         see benchmarks/RESULTS.md
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

SIGHUP reads file and environment again.
`

// paths are the flags of serve, and the keys that they set.
var paths = map[string]string{
	"tcp":              "@tcp",
	"ws":               "@ws",
	"tls":              "@tls",
	"wss":              "@wss",
	"certificate":      "@.certificate",
	"key":              "@.key",
	"http":             "http.address",
	"coap":             "coap.address",
	"admin":            "admin.address",
	"allow-anonymous":  "allow_anonymous",
	"store":            "store",
	"engine":           "engine",
	"loops":            "loops",
	"log-level":        "log.level",
	"log-format":       "log.format",
	"drain-wait":       "drain.wait",
	"drain-rate":       "drain.rate",
	"server-reference": "drain.server_reference",
	"grace":            "drain.grace",
}

// invocation is a command line that asks for a configuration.
type invocation struct {
	file  string // empty: none
	flags []config.Flag
}

// load reads what an invocation asks for. problems are all that is wrong with it.
func (i invocation) load() (c *config.Config, problems []string) {
	c, wrong := config.Load(i.file, os.Environ(), i.flags)
	for _, problem := range storeProblems(c.Store) {
		wrong = append(wrong, c.Problem("store", problem))
	}
	for _, p := range wrong {
		problems = append(problems, oneLine(p))
	}
	return c, problems
}

// parseServe reads the flags of a command. problems are all that is wrong with
// their form. help means that the usage was asked for, whatever else there was.
func parseServe(command string, args []string) (i invocation, problems []string, help bool) {
	i.file = os.Getenv(config.FileVariable)
	complain := func(format string, a ...any) { problems = append(problems, fmt.Sprintf(format, a...)) }

	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // What it would say stops at the first error.
	allowed := map[string]string{"config": "the name of a file", "set": "KEY=VALUE"}
	for name, path := range paths {
		f := config.Flag{Name: "--" + name, Path: path}
		allowed[name] = f.Allowed()
		set := func(value string) error {
			f.Value = value
			i.flags = append(i.flags, f)
			return nil
		}
		if name == "allow-anonymous" {
			flags.BoolFunc(name, "", set)
		} else {
			flags.Func(name, "", set)
		}
	}
	flags.Func("config", "", func(value string) error {
		if i.file = value; value == "" {
			complain("--config %q: allowed: the name of a file", value)
		}
		return nil
	})
	flags.Func("set", "", func(v string) error {
		path, value, ok := strings.Cut(v, "=")
		if !ok {
			complain("--set %q: allowed: KEY=VALUE", v)
			return nil
		}
		i.flags = append(i.flags, config.Flag{Name: "--set " + path, Path: path, Value: value})
		return nil
	})

	for len(args) > 0 {
		err := flags.Parse(args)
		rest := flags.Args()
		switch at := args[:len(args)-len(rest)]; {
		case errors.Is(err, flag.ErrHelp):
			return i, nil, true
		case err == nil && len(rest) > 0: // Stopped at what isn't a flag.
			complain("argument %q: allowed: flags only, see loopmq %s --help", rest[0], command)
			rest = rest[1:]
		case err != nil:
			name := strings.TrimLeft(at[len(at)-1], "-")
			if allow, known := allowed[name]; known {
				complain("--%s: needs a value: allowed: %s", name, allow)
				break
			}
			complain("%s: unknown flag, see loopmq %s --help", at[len(at)-1], command)
			if len(rest) > 0 && !strings.Contains(name, "=") && !strings.HasPrefix(rest[0], "-") {
				rest = rest[1:] // Its value, as far as one can tell.
			}
		}
		args = rest
	}
	return i, problems, false
}
