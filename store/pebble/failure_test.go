package pebble_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"loopmq/store"
	"loopmq/store/pebble"
)

// disk is a file system with a free space of its own.
type disk struct {
	vfs.FS
	free atomic.Uint64
}

func (d *disk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free.Load()}, nil
}

// mustClaim claims a durable session.
func mustClaim(t testing.TB, s store.Store, clientID string) store.Session {
	t.Helper()
	claimed, err := s.Sessions().Claim(t.Context(), store.Claim{ClientID: clientID, Owner: "node", Durable: true, SessionExpiryInterval: 3600})
	if err != nil {
		t.Fatal(err)
	}
	return claimed.Session
}

func publish(payload string, queues ...store.QueueID) store.Op {
	op := store.Op{Kind: store.OpPublish, Message: &store.Message{TopicName: []byte("topic"), Payload: []byte(payload), QoS: 1}}
	for _, q := range queues {
		op.Targets = append(op.Targets, store.Target{Queue: q, QoS: 1})
	}
	return op
}

// mustCommit commits one operation and returns it.
func mustCommit(t testing.TB, s store.Store, op store.Op) store.Op {
	t.Helper()
	b := &store.Batch{Ops: []store.Op{op}}
	if err := s.NewWriter("test").Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b.Ops[0]
}

func mustRead(t testing.TB, s store.Store, q store.QueueID) []store.Entry {
	t.Helper()
	entries, err := s.Messages().Read(t.Context(), q, store.Number{}, 1<<30, 0)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestDiskNearlyFull(t *testing.T) {
	t.Parallel()
	d := &disk{FS: vfs.NewMem()}
	d.free.Store(1000)
	s := mustOpen(t, pebble.Options{Dir: "data", FS: d, ReserveBytes: 800, Logger: quiet()})
	se := mustClaim(t, s, "c")
	q := store.QueueOf(se.ID)
	first := mustCommit(t, s, publish("1", q)).Targets[0].Number

	d.free.Store(799)
	if op := mustCommit(t, s, publish("2", q)); op.Result != store.Full || op.Targets[0].Result != store.Full {
		t.Errorf("publish below the reserve: result %d", op.Result)
	}
	if err := s.Health(); !errors.Is(err, pebble.ErrDiskFull) {
		t.Errorf("Health: %v", err)
	}
	retain := publish("retained")
	retain.Retain = true
	if op := mustCommit(t, s, retain); op.Result != store.Full {
		t.Errorf("retain below the reserve: result %d", op.Result)
	}
	// What makes room goes on, and so does what is small.
	mustClaim(t, s, "d")
	if op := mustCommit(t, s, store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: []store.Number{first}}); op.Result != store.Done {
		t.Errorf("finish below the reserve: result %d", op.Result)
	}
	if op := mustCommit(t, s, publish("to nobody")); op.Result != store.Done {
		t.Errorf("publish that stores nothing: result %d", op.Result)
	}

	d.free.Store(99)
	err := s.NewWriter("w").Commit(t.Context(), &store.Batch{Ops: []store.Op{publish("3", q)}})
	if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, pebble.ErrDiskFull) {
		t.Errorf("commit without space: %v", err)
	}
	claim := func(c store.Claim) error { _, err := s.Sessions().Claim(t.Context(), c); return err }
	will := &store.Will{Message: store.Message{TopicName: []byte("w")}}
	for _, c := range []store.Claim{{ClientID: "e", Durable: true}, {ClientID: "e", Will: will}, {ClientID: "c"}} {
		if err := claim(c); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("claim %+v without space: %v", c, err)
		}
	}
	// A session that ends with its connection stores nothing, and what ends makes room.
	for _, c := range []store.Claim{{ClientID: "e"}, {ClientID: "e"}, {ClientID: "d", CleanStart: true}} {
		if err := claim(c); err != nil {
			t.Errorf("claim %+v without space: %v", c, err)
		}
	}
	if op := mustCommit(t, s, store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: []store.Number{first}}); op.Result != store.Done {
		t.Errorf("finish without space: result %d", op.Result)
	}
	d.free.Store(11) // less than a sixty-fourth
	if err := claim(store.Claim{ClientID: "e"}); err != nil {
		t.Errorf("claim that writes nothing, with no space at all: %v", err)
	}
	if op := mustCommit(t, s, publish("to nobody")); op.Result != store.Done {
		t.Errorf("publish that stores nothing, with no space at all: result %d", op.Result)
	}
	e, err := s.Sessions().Lookup(t.Context(), "e")
	if err != nil {
		t.Fatal(err)
	}
	if op := mustCommit(t, s, store.Op{Kind: store.OpEndSession, Session: e.ID, Epoch: e.Epoch}); op.Result != store.Done {
		t.Errorf("end of a session that isn't stored, with no space at all: result %d", op.Result)
	}
	end := &store.Batch{Ops: []store.Op{{Kind: store.OpEndSession, Session: se.ID}}}
	if err := s.NewWriter("w").Commit(t.Context(), end); !errors.Is(err, pebble.ErrDiskFull) {
		t.Errorf("deletion with no space at all: %v", err)
	}
	if n := len(mustRead(t, s, q)); n != 0 {
		t.Errorf("%d entries", n)
	}

	d.free.Store(800)
	if op := mustCommit(t, s, publish("4", q)); op.Result != store.Done {
		t.Errorf("publish with space again: result %d", op.Result)
	}
	if err := s.Health(); err != nil {
		t.Errorf("Health: %v", err)
	}
}

func TestDiskNearlyFullAtOpen(t *testing.T) {
	t.Parallel()
	d := &disk{FS: vfs.NewMem()}
	d.free.Store(799)
	var log strings.Builder
	s := mustOpen(t, pebble.Options{Dir: "data", FS: d, ReserveBytes: 800, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err := s.Health(); !errors.Is(err, pebble.ErrDiskFull) {
		t.Errorf("Health: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "disk_full") {
		t.Errorf("log: %s", &log)
	}
}

// Where the log can't be written the store fails: nothing is answered from then
// on, no call hangs, and what was answered before is there afterwards.
func TestLogFails(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]func(errorfs.Op) bool{
		"sync":   func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData },
		"write":  func(op errorfs.Op) bool { return op.Kind == errorfs.OpFileWrite },
		"create": func(op errorfs.Op) bool { return op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite },
		"all":    func(op errorfs.Op) bool { return op.Kind.ReadOrWrite() == errorfs.OpIsWrite },
	} {
		for _, mode := range []pebble.Sync{pebble.SyncAlways, pebble.SyncInterval} {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				t.Parallel()
				var broken atomic.Bool
				fs := vfs.NewCrashableMem()
				o := pebble.Options{Dir: "data", Sync: mode, SyncInterval: time.Millisecond, MemTableBytes: 256 << 10, Logger: quiet()}
				o.FS = errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
					if broken.Load() && strings.HasSuffix(op.Path, ".log") && fails(op) {
						return syscall.ENOSPC
					}
					return nil
				}))
				s := mustOpen(t, o)
				q := store.QueueOf(mustClaim(t, s, "c").ID)
				w := s.NewWriter("w")
				answered := 0
				payload := strings.Repeat("x", 10_000)
				var err error
				for i := 0; i < 10_000 && err == nil; i++ {
					if broken.Store(i >= 10); err == nil {
						err = w.Commit(t.Context(), &store.Batch{Ops: []store.Op{publish(fmt.Sprint(i, payload), q)}})
					}
					if err == nil {
						answered++
					}
				}
				if !errors.Is(err, store.ErrUnavailable) {
					t.Fatalf("after %d commits: %v", answered, err)
				}
				if err := s.Health(); !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("Health: %v", err)
				}
				for what, call := range map[string]func() error{
					"Commit": func() error { return w.Commit(t.Context(), &store.Batch{Ops: []store.Op{publish("later", q)}}) },
					"Claim":  func() error { _, err := s.Sessions().Claim(t.Context(), store.Claim{ClientID: "c"}); return err },
					"Read":   func() error { _, err := s.Messages().Read(t.Context(), q, store.Number{}, 1, 0); return err },
				} {
					if err := call(); !errors.Is(err, store.ErrUnavailable) {
						t.Errorf("%s: %v", what, err)
					}
				}
				_ = s.Close()
				o.FS = fs.CrashClone(vfs.CrashCloneCfg{})
				s = mustOpen(t, o)
				entries, err := s.Messages().Read(t.Context(), q, store.Number{}, 1<<30, 0)
				if mode == pebble.SyncInterval && errors.Is(err, store.ErrGone) {
					return // the claim was not synced yet
				}
				if n := len(entries); err != nil || mode == pebble.SyncAlways && n < answered || n > answered+1 {
					t.Errorf("%d entries, %d were answered; %v", n, answered, err)
				}
			})
		}
	}
}

func TestInUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "deep", "data")
	s := mustOpen(t, pebble.Options{Dir: dir})
	_, err := pebble.Open(pebble.Options{Dir: dir})
	if !errors.Is(err, pebble.ErrInUse) || !strings.Contains(err.Error(), dir+" is in use by another loopmq") {
		t.Errorf("second Open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, pebble.Options{Dir: dir}).Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	write := func(files vfs.FS, name, text string) {
		f, err := files.Create(name, vfs.WriteCategoryUnspecified)
		if err == nil {
			_, err = f.Write([]byte(text))
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]struct {
		spoil func(vfs.FS) vfs.FS // a directory with a store
		is    error
		want  string
	}{
		"not ours": {func(files vfs.FS) vfs.FS {
			return errorfs.Wrap(files, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpLock {
					return &fs.PathError{Op: "open", Path: op.Path, Err: syscall.EACCES}
				}
				return nil
			}))
		}, fs.ErrPermission, "open data/LOCK: permission denied; the user loopmq runs as"},
		"damaged": {func(files vfs.FS) vfs.FS {
			names, _ := files.List("data")
			for _, name := range names {
				if strings.HasPrefix(name, "MANIFEST-") {
					write(files, "data/"+name, "damaged")
				}
			}
			return files
		}, nil, "; the store is damaged: "},
		"foreign": {func(vfs.FS) vfs.FS {
			files := vfs.NewMem()
			_ = files.MkdirAll("data", 0o700)
			write(files, "data/letter.txt", "dear")
			return files
		}, pebble.ErrForeign, "letter.txt"},
	} {
		files := vfs.FS(vfs.NewMem())
		if err := mustOpen(t, pebble.Options{Dir: "data", FS: files}).Close(); err != nil {
			t.Fatal(err)
		}
		files = c.spoil(files)
		_, err := pebble.Open(pebble.Options{Dir: "data", FS: files, Logger: quiet()})
		if err == nil || errors.Is(err, pebble.ErrInUse) || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	empty := vfs.NewMem()
	_ = empty.MkdirAll("data/lost+found", 0o700)
	mustOpen(t, pebble.Options{Dir: "data", FS: empty})
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		key, value []byte
		want       string
	}{
		"newer":   {[]byte("f"), binary.BigEndian.AppendUint64(nil, 99), "version 99, the newest known is 1"},
		"damaged": {[]byte("f"), []byte("x"), "format"},
		"other":   {[]byte("key"), []byte("value"), "is not a store of loopmq"},
	} {
		fs := vfs.NewMem()
		db, err := cockroach.Open("data", &cockroach.Options{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Set(c.key, c.value, cockroach.Sync), db.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err = pebble.Open(pebble.Options{Dir: "data", FS: fs}); !errors.Is(err, pebble.ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What is damaged is not taken for something else, and not answered from.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	s := mustOpen(t, pebble.Options{Dir: "data", FS: fs})
	q := store.QueueOf(mustClaim(t, s, "c").ID)
	mustCommit(t, s, publish("1", q))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := cockroach.Open("data", &cockroach.Options{FS: fs, FormatMajorVersion: cockroach.FormatNewest})
	if err != nil {
		t.Fatal(err)
	}
	it, err := db.NewIter(&cockroach.IterOptions{LowerBound: []byte("q"), UpperBound: []byte("r")})
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := db.Set(it.Key(), []byte{1, 0xFF}, cockroach.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(it.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, pebble.Options{Dir: "data", FS: fs, Logger: quiet()})
	if _, err := s.Messages().Read(t.Context(), q, store.Number{}, 1, 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Read: %v", err)
	}
}

func TestDamagedRecordsOfOutboxes(t *testing.T) {
	t.Parallel()
	for prefix, read := range map[string]func(s store.Store) error{
		"v": func(s store.Store) error { _, err := s.Outbox().Take(t.Context(), "e", "a", 1, 0); return err },
		"l": func(s store.Store) error { _, err := s.Outbox().Dead(t.Context(), "e", store.EventID{}, 1); return err },
		"i": func(s store.Store) error {
			op := publish("1")
			op.Once = &store.Once{Key: "k", Expires: time.Now().Add(time.Hour)}
			return s.NewWriter("w").Commit(t.Context(), &store.Batch{Ops: []store.Op{op}})
		},
		"x": nil,
	} {
		t.Run(prefix, func(t *testing.T) {
			fs := vfs.NewMem()
			s := mustOpen(t, pebble.Options{Dir: "data", FS: fs})
			op := publish("1")
			op.Once = &store.Once{Key: "k", Expires: time.Now().Add(time.Hour)}
			mustCommit(t, s, op)
			mustCommit(t, s, enqueue("e", "1"))
			mustCommit(t, s, enqueue("e", "2"))
			taken := mustTake(t, s, "a", 1)
			if _, err := s.Outbox().Bury(t.Context(), "e", []store.Dead{{ID: taken[0].ID}}, 1); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			db, err := cockroach.Open("data", &cockroach.Options{FS: fs, FormatMajorVersion: cockroach.FormatNewest})
			if err != nil {
				t.Fatal(err)
			}
			it, err := db.NewIter(&cockroach.IterOptions{LowerBound: []byte(prefix), UpperBound: []byte{prefix[0] + 1}})
			if err != nil {
				t.Fatal(err)
			}
			for ok := it.First(); ok; ok = it.Next() {
				if err := db.Set(it.Key(), []byte{1}, cockroach.Sync); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(it.Close(), db.Close()); err != nil {
				t.Fatal(err)
			}
			if read == nil {
				if _, err := pebble.Open(pebble.Options{Dir: "data", FS: fs, Logger: quiet()}); err == nil {
					t.Error("a damaged outbox was opened")
				}
				return
			}
			s = mustOpen(t, pebble.Options{Dir: "data", FS: fs, Logger: quiet()})
			if err := read(s); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestParseLocation(t *testing.T) {
	t.Parallel()
	o, err := pebble.ParseLocation("/a/b c?sync=interval&interval=20ms&cache=1MiB&memtable=2MiB&reserve=3GiB&max=4TiB")
	want := pebble.Options{
		Dir: "/a/b c", Sync: pebble.SyncInterval, SyncInterval: 20 * time.Millisecond,
		CacheBytes: 1 << 20, MemTableBytes: 2 << 20, ReserveBytes: 3 << 30, MaxBytes: 4 << 40,
	}
	if err != nil || !reflect.DeepEqual(o, want) {
		t.Errorf("got %+v, %v", o, err)
	}
	for location, lines := range map[string][]string{
		"":                       {`"" has no directory`},
		"?sync=always":           {"has no directory"},
		"d?sync=never":           {`parameter sync is "never"; allowed: always, interval, off`},
		"d?sync=":                {`parameter sync is ""; allowed: always, interval, off`},
		"d?interval=0s":          {`parameter interval is "0s"; allowed: a duration from 1ms to 1m`},
		"d?interval=2m":          {`interval is "2m"`},
		"d?cache=1":              {`cache is "1"; allowed: a size from 1MiB to 1TiB`},
		"d?cache=x":              {`cache is "x"`},
		"d?cache=-1MiB":          {`cache is "-1MiB"`},
		"d?memtable=2GiB":        {`memtable is "2GiB"; allowed: a size from 1MiB to 1GiB`},
		"d?reserve=1023KiB":      {`reserve is "1023KiB"; allowed: a size from 1MiB`},
		"d?reserve=9999999TiB":   {`reserve is "9999999TiB"`},
		"d?max=":                 {`max is ""`},
		"d?sink=off":             {`no parameter "sink"; allowed: cache, interval, max, memtable, reserve, sync`},
		"d?%zz":                  {`parameters "%zz" can't be read`},
		"d?sync=off&sync=always": {"parameter sync comes 2 times; allowed: once"},
		"?sync=x&sync=y&max=z&a=b&reserve=1&%": {
			"has no directory", "can't be read", `no parameter "a"`, `max is "z"`, `reserve is "1"`, "sync comes 2 times",
		},
	} {
		o, err := pebble.ParseLocation(location)
		if err == nil {
			t.Errorf("%q: %+v", location, o)
			continue
		}
		got := strings.Split(err.Error(), "\n")
		for i, want := range lines {
			if len(got) != len(lines) || !strings.Contains(got[i], want) {
				t.Errorf("%q: got %q, want %q in line %d of %d", location, got, want, i, len(lines))
				break
			}
		}
	}
}

// Whatever a location is, it is read or refused, and what is read is within its bounds.
func FuzzParseLocation(f *testing.F) {
	for _, location := range []string{"", "d", "d?sync=off", "d?interval=1m&sync=interval", "d?cache=1MiB&memtable=1GiB&reserve=1TiB&max=1", "?%", "d?a;b", "d?sync=off&sync=off"} {
		f.Add(location)
	}
	f.Fuzz(func(t *testing.T, location string) {
		o, err := pebble.ParseLocation(location)
		if err != nil {
			return
		}
		bad := func(n int64) bool { return n != 0 && n < 1<<20 }
		if o.Dir == "" || bad(o.CacheBytes) || bad(o.MemTableBytes) || bad(o.ReserveBytes) || bad(int64(o.MaxBytes)) || o.SyncInterval < 0 {
			t.Errorf("%q: %+v", location, o)
		}
	})
}
