package pebble_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"loopmq/store"
	"loopmq/store/pebble"
)

// smallDisk is a directory of the operating system that may take size bytes.
type smallDisk struct {
	vfs.FS
	dir  string
	size uint64
}

func (d *smallDisk) used() (n uint64) {
	_ = filepath.WalkDir(d.dir, func(path string, _ fs.DirEntry, _ error) error {
		if info, err := os.Stat(path); err == nil && !info.IsDir() { // files go meanwhile
			n += uint64(info.Sys().(*syscall.Stat_t).Blocks) * 512 // with what is preallocated
		}
		return nil
	})
	return n
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.size - min(d.size, d.used())}, nil
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(what)
		}
	}
}

// An empty store takes next to nothing, and on a small disk what is delivered
// makes room for what comes, again and again, though nobody writes meanwhile.
// While Pebble merges files the disk may be so full that it has no room at all.
func TestSmallDisk(t *testing.T) {
	t.Parallel()
	const (
		reserve = 16 << 20
		room    = 24 << 20
	)
	d := &smallDisk{FS: vfs.Default, dir: t.TempDir(), size: reserve + room}
	s := mustOpen(t, pebble.Options{Dir: d.dir, FS: d, MemTableBytes: 8 << 20, ReserveBytes: reserve, Sync: pebble.SyncOff, Logger: quiet()})
	if used := d.used(); used > 5<<20 {
		t.Errorf("an empty store takes %d bytes", used)
	}
	se := mustClaim(t, s, "c")
	q := store.QueueOf(se.ID)
	random := make([]byte, 500_000) // so that nothing is gained by compression
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	payload := string(random)
	w := s.NewWriter("test")
	commit := func(op store.Op) (_ store.Op, full bool) {
		b := &store.Batch{Ops: []store.Op{op}}
		err := w.Commit(t.Context(), b)
		if err != nil && !errors.Is(err, pebble.ErrDiskFull) {
			t.Fatal(err)
		}
		return b.Ops[0], err != nil || b.Ops[0].Result == store.Full
	}
	for round := range 3 {
		var numbers []store.Number
		for len(numbers) < 1000 {
			op, full := commit(publish(payload, q))
			if full {
				break
			}
			numbers = append(numbers, op.Targets[0].Number)
		}
		if n := len(numbers); n < 8 || n == 1000 {
			t.Fatalf("round %d: %d messages until the disk was full, %d bytes taken", round, n, d.used())
		}
		eventually(t, "nothing can be taken out", func() bool {
			_, full := commit(store.Op{Kind: store.OpFinish, Session: se.ID, Numbers: numbers})
			return !full
		})
		eventually(t, "what was delivered makes no room", func() bool { return s.Health() == nil })
	}
}
