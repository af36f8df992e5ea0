package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Off is the address of a listener that is left out.
const Off = "off"

func same(s string) string { return s }

// text is any text that isn't empty.
var text = kind[string]{
	name: "text", allowed: "text", takes: takesText,
	parse: func(s string) (string, bool) { return s, isText(s) }, format: same,
}

// isText reports whether s could be written in a file.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// file is the name of a file.
var file = kind[string]{
	name: "file", allowed: "the name of a file", takes: takesText,
	parse:  func(s string) (string, bool) { return s, s != "" && isText(s) },
	format: same,
}

var boolean = kind[bool]{
	name: "true or false", allowed: "true, false", takes: takesBool,
	parse: func(s string) (bool, bool) {
		switch strings.ToLower(s) {
		case "true", "1":
			return true, true
		case "false", "0":
			return false, true
		}
		return false, false
	},
	format: strconv.FormatBool,
}

// oneOf is one of some words.
func oneOf(words ...string) kind[string] {
	return kind[string]{
		name: "word", allowed: strings.Join(words, ", "), takes: takesText | takesInteger,
		parse: func(s string) (string, bool) { return s, slices.Contains(words, s) }, format: same,
	}
}

// word is what stands for a number that means something else than itself.
type word struct {
	text  string
	value int
}

var (
	unlimited = word{"unlimited", -1}
	automatic = word{"auto", 0}
	none      = word{"none", -1}
)

// whole is an integer from least to most, or one of the words.
func whole(least, most int, words ...word) kind[int] {
	allowed := fmt.Sprintf("%d to %d", least, most)
	if most == math.MaxInt {
		allowed = fmt.Sprintf("%d or more", least)
	}
	return kind[int]{
		name: "number", allowed: withWords(allowed, words), takes: takesOf(takesInteger, words),
		parse: func(s string) (int, bool) {
			if v, ok := valueOf(s, words); ok {
				return v, true
			}
			n, err := strconv.Atoi(s)
			return n, err == nil && n >= least && n <= most
		},
		format: func(n int) string { return wordFor(n, words, strconv.Itoa) },
	}
}

// size is a number of bytes from least to most, or one of the words.
func size(least, most int, words ...word) kind[int] {
	return kind[int]{
		name:    "size",
		allowed: withWords(fmt.Sprintf("a size from %s to %s, such as 4MiB", formatSize(least), formatSize(most)), words),
		takes:   takesText | takesInteger,
		parse: func(s string) (int, bool) {
			if v, ok := valueOf(s, words); ok {
				return v, true
			}
			n, ok := parseSize(s)
			return n, ok && n >= least && n <= most
		},
		format: func(n int) string { return wordFor(n, words, formatSize) },
	}
}

func withWords(allowed string, words []word) string {
	for _, w := range words {
		allowed += ", or " + w.text
	}
	return allowed
}

func takesOf(takes scalars, words []word) scalars {
	if len(words) > 0 {
		takes |= takesText
	}
	return takes
}

func valueOf(s string, words []word) (int, bool) {
	for _, w := range words {
		if w.text == s {
			return w.value, true
		}
	}
	return 0, false
}

func wordFor(n int, words []word, format func(int) string) string {
	for _, w := range words {
		if w.value == n {
			return w.text
		}
	}
	return format(n)
}

var units = []string{"KiB", "MiB", "GiB", "TiB"}

// parseSize reads a number of bytes, or of KiB, MiB, GiB or TiB.
func parseSize(s string) (int, bool) {
	shift := 0
	for i, unit := range units {
		if number, found := strings.CutSuffix(s, unit); found {
			s, shift = strings.TrimRight(number, " "), 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || n > math.MaxInt64>>shift {
		return 0, false
	}
	return int(n << shift), true
}

func formatSize(n int) string {
	unit := ""
	for _, u := range units {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return strconv.Itoa(n) + unit
}

// span is a duration from least to most.
func span(least, most time.Duration, words ...word) kind[time.Duration] {
	return kind[time.Duration]{
		name:    "duration",
		allowed: withWords(fmt.Sprintf("a duration such as 10s, from %s to %s", formatSpan(least), formatSpan(most)), words),
		takes:   takesText,
		parse: func(s string) (time.Duration, bool) {
			if v, ok := valueOf(s, words); ok {
				return time.Duration(v), true
			}
			d, ok := parseSpan(s)
			return d, ok && d >= least && d <= most
		},
		format: func(d time.Duration) string {
			for _, w := range words {
				if time.Duration(w.value) == d {
					return w.text
				}
			}
			return formatSpan(d)
		},
	}
}

const day = 24 * time.Hour

// parseSpan reads a duration of Go, or a number of days such as 14d.
func parseSpan(s string) (time.Duration, bool) {
	if number, found := strings.CutSuffix(s, "d"); found {
		days, err := strconv.Atoi(number)
		return time.Duration(days) * day, err == nil && days >= 0 && days <= math.MaxInt64/int(day)
	}
	d, err := time.ParseDuration(s)
	return d, err == nil
}

// formatSpan writes a duration without the zeros behind it: 1h, not 1h0m0s.
func formatSpan(d time.Duration) string {
	if d > 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// hostPort is a TCP address or off.
var hostPort = kind[string]{
	name: "address", allowed: "host:port with a port from 0 to 65535, or off", takes: takesText,
	parse: func(s string) (string, bool) { return s, s == Off || IsHostPort(s) }, format: same,
}

// listenAddress is a TCP address, the path of a unix socket, or off.
var listenAddress = kind[string]{
	name: "address", allowed: "host:port with a port from 0 to 65535, unix:PATH, or off", takes: takesText,
	parse: func(s string) (string, bool) {
		path, isUnix := strings.CutPrefix(s, unixPrefix)
		if isUnix {
			return s, path != "" && len(path) <= unixPathMax && isText(path)
		}
		return s, s == Off || IsHostPort(s)
	},
	format: same,
}

const (
	unixPrefix  = "unix:"
	unixPathMax = 103 // of the systems that we know, the smallest
)

// IsHostPort reports whether s is host:port, with a number for the port. Whether
// the host exists shows when it is listened on.
func IsHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, " /") || !isText(host) {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// IsLoopback reports whether only this machine can reach an address: a loopback
// address, a unix socket, or off. Of names, only localhost is taken to be so: what
// another one resolves to can change.
func IsLoopback(address string) bool {
	if address == Off || strings.HasPrefix(address, unixPrefix) {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// origin is where web pages come from.
var origin = kind[string]{
	name: "origin", allowed: "SCHEME://HOST or SCHEME://HOST:PORT, where HOST may begin with *., or *", takes: takesText,
	parse: func(s string) (string, bool) {
		u, err := url.Parse(s)
		if s == "*" || s == "null" {
			return s, true
		}
		if err != nil || !isText(s) || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return s, false
		}
		below, wild := strings.CutPrefix(u.Host, "*")
		return s, !strings.Contains(below, "*") && (!wild || strings.HasPrefix(below, "."))
	},
	format: same,
}

// network is a network of addresses, or one address.
var network = kind[netip.Prefix]{
	name: "network", allowed: "a network such as 10.0.0.0/8, or an address", takes: takesText,
	parse: func(s string) (netip.Prefix, bool) {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return netip.PrefixFrom(a, a.BitLen()), true
		}
		p, err := netip.ParsePrefix(s)
		return p.Masked(), err == nil
	},
	format: netip.Prefix.String,
}

// storeURL is where a broker keeps what outlives a connection. cmd/loopmq asks the
// stores whether they take it.
var storeURL = kind[string]{
	name: "store", allowed: "memory, pebble:DIR, or the URL of a Redis", takes: takesText, mask: maskURL,
	parse: func(s string) (string, bool) { return s, isText(s) }, format: same,
}

// maskURL hides what is in front of the last @ of a URL, though one that is written
// wrongly, as far as it isn't the scheme.
func maskURL(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	scheme, _, found := strings.Cut(s[:at], "://")
	if !found {
		return "…" + s[at:]
	}
	return scheme + "://…" + s[at:]
}
