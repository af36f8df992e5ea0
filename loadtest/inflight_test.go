package loadtest

import (
	"math/rand/v2"
	"testing"
)

// TestInflightAgainstModel gives out Packet Identifiers and takes acknowledgements in a random order, beyond where identifiers
// begin again.
func TestInflightAgainstModel(t *testing.T) {
	const window = 50
	r := rand.New(rand.NewPCG(3, 4))
	var f inflight
	model := map[uint16]uint64{}
	for number := uint64(0); number < 200_000; number++ {
		for f.full(window) || r.IntN(3) == 0 && len(model) > 0 {
			var id uint16
			for id = range model { // any
				break
			}
			m := f.find(id)
			if m == nil || m.number != model[id] {
				t.Fatalf("Packet Identifier %d: got %+v, want number %d", id, m, model[id])
			}
			f.finish(m)
			delete(model, id)
			if f.find(id) != nil {
				t.Fatalf("Packet Identifier %d is there still", id)
			}
		}
		id := f.push(number, 7)
		if _, used := model[id]; used || id == 0 {
			t.Fatalf("Packet Identifier %d is in use", id)
		}
		model[id] = number
		if f.open != len(model) || f.span > window {
			t.Fatalf("%d open, span %d, want %d", f.open, f.span, len(model))
		}
	}
	if f.find(0) != nil {
		t.Error("Packet Identifier 0 is found")
	}
}

func TestHeld(t *testing.T) {
	var h held
	r := rand.New(rand.NewPCG(5, 6))
	model := map[uint16]bool{}
	for step := range 20_000 {
		id := uint16(1 + r.IntN(100))
		if step < 2000 {
			id %= 20 // few at first
		}
		if r.IntN(2) == 0 {
			if got := h.add(id); got == model[id] {
				t.Fatalf("step %d: adding %d: got %v", step, id, got)
			}
			model[id] = true
		} else {
			h.remove(id)
			delete(model, id)
		}
	}
	if h.many == nil {
		t.Error("there were never many")
	}
}
