package store_test

import (
	"testing"

	"loopmq/store"
)

func TestEventID(t *testing.T) {
	inOrder := []store.EventID{{}, {Generation: 1, Seq: 1}, {Generation: 1, Seq: 2}, {Generation: 2, Seq: 1}, {Generation: 1<<64 - 1, Seq: 1<<64 - 1}}
	for i, a := range inOrder {
		for j, b := range inOrder {
			if got := a.Less(b); got != (i < j) {
				t.Errorf("%v before %v: got %t", a, b, got)
			}
		}
		if got, err := store.ParseEventID(a.String()); err != nil || got != a {
			t.Errorf("%v came back as %v, error %v", a, got, err)
		}
		if got := a.IsZero(); got != (i == 0) {
			t.Errorf("IsZero of %v: got %t", a, got)
		}
	}
}

// What ParseEventID takes is what String writes, and nothing else.
func FuzzParseEventID(f *testing.F) {
	for _, s := range []string{"1-2", "", "1", "1-", "-1-2", "01-2", "1-2 ", " 1-2", "1-2x", "18446744073709551616-1", "+1-2", "1_0-2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := store.ParseEventID(s)
		if err != nil && !id.IsZero() {
			t.Errorf("%q is %v, and an error", s, id)
		}
		if err == nil && id.String() != s {
			t.Errorf("%q is read as %v", s, id)
		}
	})
}
