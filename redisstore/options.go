package redisstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options is what a URL can't say. The zero value is usable.
type Options struct {
	// Logger gets what an operator has to know, such as a Redis that may evict keys.
	// Nil: slog.Default().
	Logger *slog.Logger
}

// ackLevel is what the answer of a Commit stands for.
type ackLevel uint8

const (
	ackStore    ackLevel = iota // the script has run
	ackMemory                   // the same, but acknowledgements don't wait for it
	ackReplicas                 // the script has run, and replicas have it
)

// config is a URL, taken apart.
type config struct {
	redis    redis.UniversalOptions
	prefix   string
	cluster  bool // it is a Redis Cluster
	ack      ackLevel
	replicas int
	degraded bool
	lease    time.Duration
	node     string
	maxBytes int64

	caFile, certFile, keyFile string // empty: the system's CAs, and no certificate
}

const (
	defaultPrefix  = "lmq:"
	clusterPrefix  = "{lmq}:"
	defaultLease   = 5 * time.Second
	defaultTimeout = 3 * time.Second
	defaultPool    = 32
)

// parameters take the value of a URL parameter each, and return what is allowed
// if it is not.
var parameters = map[string]func(c *config, value string) (allowed string){
	"prefix": func(c *config, v string) string {
		if v == "" || strings.ContainsAny(v, "{}") && !hasHashTag(v) {
			return "a string without braces, or with a hash tag, as in " + clusterPrefix
		}
		c.prefix = v
		return ""
	},
	"ack": func(c *config, v string) string {
		replicas, found := strings.CutPrefix(v, "store+replicas:")
		n, err := strconv.Atoi(replicas)
		switch {
		case v == "store":
			c.ack = ackStore
		case v == "memory":
			c.ack = ackMemory
		case found && err == nil && n > 0:
			c.ack, c.replicas = ackReplicas, n
		default:
			return "memory, store, or store+replicas:N with N > 0"
		}
		return ""
	},
	"away": func(c *config, v string) string {
		if v != "closed" && v != "degraded" {
			return "closed or degraded"
		}
		c.degraded = v == "degraded"
		return ""
	},
	"lease": func(c *config, v string) string {
		return duration(&c.lease, v, 50*time.Millisecond, time.Hour)
	},
	"timeout": func(c *config, v string) string {
		return duration(&c.redis.ReadTimeout, v, 10*time.Millisecond, time.Hour)
	},
	"pool": func(c *config, v string) string {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 10_000 {
			return "1 to 10000 connections"
		}
		c.redis.PoolSize = n
		return ""
	},
	"max_bytes": func(c *config, v string) string {
		n, ok := parseBytes(v)
		if !ok {
			return "a number of bytes, or of KiB, MiB, GiB or TiB, as in 100MiB"
		}
		c.maxBytes = n
		return ""
	},
	"node": func(c *config, v string) string {
		if v == "" {
			return "a name"
		}
		c.node = v
		return ""
	},
	"ca":   func(c *config, v string) string { return file(&c.caFile, v) },
	"cert": func(c *config, v string) string { return file(&c.certFile, v) },
	"key":  func(c *config, v string) string { return file(&c.keyFile, v) },

	"sentinel_username": func(c *config, v string) string { c.redis.SentinelUsername = v; return "" },
	"sentinel_password": func(c *config, v string) string { c.redis.SentinelPassword = v; return "" },
}

func file(name *string, v string) (allowed string) {
	if v == "" {
		return "the name of a file in PEM format"
	}
	*name = v
	return ""
}

func duration(d *time.Duration, v string, low, high time.Duration) (allowed string) {
	n, err := time.ParseDuration(v)
	if err != nil || n < low || n > high {
		allowed = fmt.Sprintf("%v to %v", low, high)
		if _, err := strconv.ParseFloat(v, 64); err == nil {
			allowed += ", with a unit, as in " + v + "s"
		}
		return allowed
	}
	*d = n
	return ""
}

// parseBytes reads a size of at least 1 in bytes, or in KiB, MiB, GiB or TiB.
func parseBytes(v string) (int64, bool) {
	shift := 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if number, found := strings.CutSuffix(v, unit); found {
			v, shift = number, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(v, 10, 64)
	return n << shift, err == nil && n > 0 && n <= math.MaxInt64>>shift
}

// errURL says no more about a URL than what it is to be like: what can't be told apart
// in it may be a part of the password.
var errURL = errors.New("redisstore: the URL can't be read; it is to be like redis://user:password@host:6379/0?prefix=name, " +
	"and in user and password # is written as %23, @ as %40, / as %2F, ? as %3F, % as %25")

// CheckURL returns nil if NewStore can make something of a URL, else all that is wrong
// with it, a line each. It asks no Redis, and shows no password.
func CheckURL(rawURL string) error {
	_, err := parseURL(rawURL)
	return err
}

// parseURL returns what rawURL says, or all that is wrong with it. No error
// shows a password.
func parseURL(rawURL string) (config, error) {
	c := config{prefix: defaultPrefix, lease: defaultLease}
	c.redis = redis.UniversalOptions{
		Protocol: 2,
		// A command that failed may have been applied: only who knows what it was may
		// repeat it.
		MaxRetries:               -1,
		DialerRetries:            1,
		DialTimeout:              defaultTimeout,
		ReadTimeout:              defaultTimeout,
		PoolSize:                 defaultPool,
		PipelinePoolSize:         -1, // the same connections for all
		ContextTimeoutEnabled:    true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	rawURL, hosts := cutHosts(rawURL)
	u, err := url.Parse(rawURL)
	if err != nil || strings.Contains(rawURL, "#") || strings.Contains(u.EscapedPath(), "@") {
		return c, errURL
	}
	var wrong []error
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf("redisstore: "+format, args...)) }
	path := strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "redis", "rediss":
		c.redis.Addrs = []string{withPort(u.Host, "6379")}
		if path != "" {
			if c.redis.DB, err = strconv.Atoi(path); err != nil || c.redis.DB < 0 {
				complain("the path of the URL is %q; allowed: the number of a database", path)
			}
		}
	case "redis+sentinel", "rediss+sentinel":
		for host := range strings.SplitSeq(hosts, ",") {
			c.redis.Addrs = append(c.redis.Addrs, withPort(host, "26379"))
		}
		c.redis.MasterName = path
		if path == "" {
			complain("the path of the URL is empty; allowed: the name of the master that the Sentinels watch")
		}
	case "redis+cluster", "rediss+cluster":
		c.cluster, c.prefix = true, clusterPrefix
		for host := range strings.SplitSeq(hosts, ",") {
			c.redis.Addrs = append(c.redis.Addrs, withPort(host, "6379"))
		}
		if path != "" && path != "0" {
			complain("the path of the URL is %q; allowed: nothing, as a Redis Cluster has one database", path)
		}
	default:
		complain("the scheme of the URL is %q; allowed: redis, rediss (TLS), redis+sentinel, rediss+sentinel, redis+cluster, rediss+cluster", u.Scheme)
	}
	if u.Host == "" {
		complain("the URL names no host")
	}
	if strings.HasPrefix(u.Scheme, "rediss") {
		c.redis.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.Hostname()}
		if c.redis.MasterName != "" || c.cluster {
			c.redis.TLSConfig.ServerName = "" // that of each host
		}
	}
	c.redis.Username = u.User.Username()
	c.redis.Password, _ = u.User.Password()
	// A + in a value stands for itself, as in store+replicas:1.
	query, err := url.ParseQuery(strings.ReplaceAll(u.RawQuery, "+", "%2B"))
	if err != nil {
		complain("the parameters of the URL can't be read")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		set := parameters[name]
		if set == nil {
			complain("the URL has a parameter %q; allowed: %s", name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", "))
			continue
		}
		values := query[name]
		if len(values) > 1 {
			complain("the URL parameter %s comes %d times; allowed: once", name, len(values))
		} else if allowed := set(&c, values[0]); allowed != "" {
			complain("the URL parameter %s is %q; allowed: %s", name, values[0], allowed)
		}
	}
	if c.cluster && !hasHashTag(c.prefix) {
		complain("the URL parameter prefix is %q; allowed for a Redis Cluster: one with a hash tag, as in %s", c.prefix, clusterPrefix)
	}
	if c.redis.TLSConfig == nil && c.caFile+c.certFile+c.keyFile != "" {
		complain("the URL has a parameter ca, cert or key; allowed with TLS, where its scheme begins with rediss")
	}
	if (c.certFile == "") != (c.keyFile == "") {
		complain("the URL has one of the parameters cert and key; allowed: both or none")
	}
	if len(wrong) > 0 && strings.Contains(u.RawQuery, "@") { // the password may have had a question mark
		return c, errURL
	}
	c.redis.WriteTimeout = c.redis.ReadTimeout
	return c, errors.Join(wrong...)
}

// readCertificates has the files that the URL names in use. The certificate and its key
// are read again for each connection, so that they can be renewed.
func (c *config) readCertificates() error {
	if c.caFile != "" {
		text, err := os.ReadFile(c.caFile)
		if err != nil {
			return fmt.Errorf("redisstore: ca in the URL: %w", err)
		}
		c.redis.TLSConfig.RootCAs = x509.NewCertPool()
		if !c.redis.TLSConfig.RootCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("redisstore: ca in the URL: %s has no certificate in PEM format", c.caFile)
		}
	}
	if c.certFile != "" {
		certificate := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
			if err != nil {
				return nil, fmt.Errorf("redisstore: cert and key in the URL: %w", err)
			}
			return &pair, nil
		}
		if _, err := certificate(nil); err != nil {
			return err
		}
		c.redis.TLSConfig.GetClientCertificate = certificate
	}
	return nil
}

// cutHosts takes the hosts out of a URL that may have several, which package url
// doesn't know. The first stays.
func cutHosts(rawURL string) (withOne, hosts string) {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	end := len(rest)
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		end = i
	}
	begin := strings.LastIndex(rest[:end], "@") + 1
	hosts = rest[begin:end]
	first, _, several := strings.Cut(hosts, ",")
	if !several {
		return rawURL, hosts
	}
	return scheme + "://" + rest[:begin] + first + rest[end:], hosts
}

// hasHashTag reports whether a prefix puts all keys into one hash slot: that of what is
// between its first brace and the next closing one, if anything is.
func hasHashTag(prefix string) bool {
	before, rest, _ := strings.Cut(prefix, "{")
	tag, _, closed := strings.Cut(rest, "}")
	return closed && tag != "" && !strings.Contains(before, "}")
}

func withPort(host, port string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}
