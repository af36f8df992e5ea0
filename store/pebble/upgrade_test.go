package pebble

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Each version's migration runs once, in order, with the new version in the same
// batch; one that fails leaves things as they are, and begins again.
func TestUpgrade(t *testing.T) {
	db, err := pebble.Open("data", &pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := upgrade(db, nil, 1); err != nil {
		t.Fatal(err)
	}
	if err := db.Set([]byte("x"), []byte("1"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	value := func() (v string) {
		if _, err := get(db, []byte("x"), func(b []byte) error { v = string(b); return nil }); err != nil {
			t.Fatal(err)
		}
		return v
	}
	fail := errors.New("no")
	add := func(text string) func(*pebble.DB, *pebble.Batch) error {
		return func(_ *pebble.DB, b *pebble.Batch) error {
			return errors.Join(b.Set([]byte("x"), []byte(value()+text), nil), fail)
		}
	}
	migrations := []func(*pebble.DB, *pebble.Batch) error{nil, add("2"), add("3")}
	if err := upgrade(db, migrations, 3); !errors.Is(err, fail) || !strings.Contains(err.Error(), "from version 1") || value() != "1" {
		t.Fatalf("%v, value %q", err, value())
	}
	fail = nil
	for range 2 {
		if err := upgrade(db, migrations, 3); err != nil || value() != "123" {
			t.Fatalf("%v, value %q", err, value())
		}
	}
	if err := upgrade(db, migrations, 2); !errors.Is(err, ErrFormat) {
		t.Errorf("an older program: %v", err)
	}
}
