package session

import (
	"math/rand/v2"
	"testing"
)

// The set of held Packet Identifiers does what a map does.
func TestInboundModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var in Inbound
		held := make(map[uint16]bool)
		ids := 1 + r.IntN(200)
		for range 1000 {
			id := uint16(65535 - r.IntN(ids))
			if r.IntN(2) == 0 {
				if got, want := in.Hold(id), !held[id]; got != want {
					t.Fatalf("Hold(%d): got %v, want %v", id, got, want)
				}
				held[id] = true
			} else {
				if got, want := in.Release(id), held[id]; got != want {
					t.Fatalf("Release(%d): got %v, want %v", id, got, want)
				}
				delete(held, id)
			}
			if in.Len() != len(held) {
				t.Fatalf("Len: got %d, want %d", in.Len(), len(held))
			}
		}
	}
}

func TestInboundGivesMemoryBack(t *testing.T) {
	var in Inbound
	for id := range uint16(1000) {
		in.Hold(id + 1)
	}
	for id := range uint16(1000) {
		in.Release(1000 - id)
	}
	if in.Len() != 0 || in.held != nil {
		t.Errorf("an empty set of %d keeps room for %d", in.Len(), cap(in.held))
	}
}
