package pebble

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Sync says when the log is forced to the disk.
type Sync string

const (
	// SyncAlways: before each commit returns. Nothing that was answered is lost.
	SyncAlways Sync = "always"
	// SyncInterval: every Options.SyncInterval. A crash of the process or of the
	// machine loses what was answered since.
	SyncInterval Sync = "interval"
	// SyncOff: when Pebble fills a block of its log, and the system writes it. A
	// crash of the process loses the last block, one of the machine what the system
	// had not written, which can be half a minute.
	SyncOff Sync = "off"
)

// Options configure a Store. Only Dir is required.
type Options struct {
	// Dir is the directory, which is made if it isn't there.
	Dir string
	// Sync is SyncAlways if empty.
	Sync Sync
	// SyncInterval is for Sync = SyncInterval; 0: one second.
	SyncInterval time.Duration
	// CacheBytes is the size of the cache of what was read; 0: 32 MiB.
	CacheBytes int64
	// MemTableBytes is how much is kept in memory, and in the log, before it is
	// sorted into a file; up to three times as much while that is behind. 0: 64
	// MiB.
	MemTableBytes int64
	// ReserveBytes is how much of the disk is left free: below that messages are
	// refused, and only what makes room is done; 0: 256 MiB.
	ReserveBytes int64
	// MaxBytes bounds the sizes of all messages in the store, each counted once if
	// it is stored once. What goes beyond it has the result store.Full. Stored
	// Wills count, but are never refused. Zero: no bound.
	MaxBytes int
	// Now is the store's clock; nil: time.Now. It is called from many goroutines.
	Now func() time.Time
	// Logger gets what Pebble has to say; nil: slog.Default.
	Logger *slog.Logger
	// FS is the file system; nil: that of the operating system.
	FS vfs.FS
}

const (
	defaultSyncInterval  = time.Second
	defaultCacheBytes    = 32 << 20
	defaultMemTableBytes = 64 << 20
	defaultReserveBytes  = 256 << 20
)

func (o *Options) setDefaults() {
	if o.Sync == "" {
		o.Sync = SyncAlways
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = defaultSyncInterval
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = defaultMemTableBytes
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = defaultReserveBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
}

// ParseLocation returns the Options that a location stands for: a directory, and
// behind a question mark parameters as in a URL: sync (always, interval, off),
// interval (a duration from 1ms to 1m), cache, memtable, reserve and max (sizes
// such as 64MiB). The error has a line for all that is wrong.
func ParseLocation(location string) (Options, error) {
	dir, query, _ := strings.Cut(location, "?")
	o := Options{Dir: dir}
	var wrong []error
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if dir == "" {
		complain("%q has no directory; allowed: a directory, as in ./data?sync=always", location)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		complain("the parameters %q can't be read: %w", query, err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		p, known := parameters[name]
		switch v := values[name]; {
		case !known:
			complain("there is no parameter %q; allowed: %s", name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", "))
		case len(v) > 1:
			complain("the parameter %s comes %d times; allowed: once", name, len(v))
		case !p.set(&o, v[0]):
			complain("the parameter %s is %q; allowed: %s", name, v[0], p.allowed)
		}
	}
	return o, errors.Join(wrong...)
}

// parameters are those of a location. set reports whether the value is allowed.
var parameters = map[string]struct {
	allowed string
	set     func(o *Options, value string) bool
}{
	"sync": {"always, interval, off", func(o *Options, v string) bool {
		o.Sync = Sync(v)
		return o.Sync == SyncAlways || o.Sync == SyncInterval || o.Sync == SyncOff
	}},
	"interval": {"a duration from 1ms to 1m", func(o *Options, v string) bool {
		d, err := time.ParseDuration(v)
		o.SyncInterval = d
		return err == nil && d >= time.Millisecond && d <= time.Minute
	}},
	"cache": {"a size from 1MiB to 1TiB, such as 32MiB", func(o *Options, v string) (ok bool) {
		o.CacheBytes, ok = parseBytes(v, 1<<20, 1<<40)
		return ok
	}},
	"memtable": {"a size from 1MiB to 1GiB, such as 64MiB", func(o *Options, v string) (ok bool) {
		o.MemTableBytes, ok = parseBytes(v, 1<<20, 1<<30)
		return ok
	}},
	"reserve": {"a size from 1MiB to 1024TiB, such as 256MiB", func(o *Options, v string) (ok bool) {
		o.ReserveBytes, ok = parseBytes(v, 1<<20, 1<<50)
		return ok
	}},
	"max": {"a size from 1MiB to 1024TiB, such as 10GiB", func(o *Options, v string) bool {
		n, ok := parseBytes(v, 1<<20, 1<<50)
		o.MaxBytes = int(n)
		return ok
	}},
}

// parseBytes reads a size in bytes, or in KiB, MiB, GiB or TiB.
func parseBytes(s string, least, most int64) (int64, bool) {
	shift := 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if number, found := strings.CutSuffix(s, unit); found {
			s, shift = number, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > most>>shift {
		return 0, false
	}
	n <<= shift
	return n, n >= least
}
