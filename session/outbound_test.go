package session

import (
	"math/rand/v2"
	"slices"
	"testing"

	"loopmq/store"
)

// modelWindow is what Outbound does, said with a map.
type modelWindow struct {
	inFlight       map[store.Number]State
	entries        map[store.Number]*store.Entry
	ids            map[uint16]store.Number
	last           store.Number // the largest that is or was in the window
	receiveMaximum int
}

func newModelWindow(receiveMaximum int) *modelWindow {
	return &modelWindow{
		inFlight: make(map[store.Number]State), entries: make(map[store.Number]*store.Entry), ids: make(map[uint16]store.Number),
		receiveMaximum: receiveMaximum,
	}
}

// oldest returns the first unfinished number.
func (m *modelWindow) oldest() (oldest store.Number, ok bool) {
	for n := range m.inFlight {
		if !ok || n.Less(oldest) {
			oldest, ok = n, true
		}
	}
	return oldest, ok
}

// fits says whether n may join what is in flight: it is of the same generation, larger than all before it, and less than 65535 above
// the oldest.
func (m *modelWindow) fits(n store.Number) bool {
	oldest, ok := m.oldest()
	if !ok {
		return true
	}
	return n.Generation == oldest.Generation && m.last.Less(n) && n.Seq-oldest.Seq < 65535
}

func (m *modelWindow) canSend(n store.Number) bool {
	return len(m.inFlight) < m.receiveMaximum && m.fits(n)
}

func (m *modelWindow) add(t *testing.T, n store.Number, id uint16, s State, e *store.Entry) {
	t.Helper()
	if other, used := m.ids[id]; id == 0 || used {
		t.Fatalf("%v got Packet Identifier %d, which is that of %v [MQTT-2.2.1-4]", n, id, other)
	}
	m.ids[id], m.inFlight[n], m.entries[n], m.last = n, s, e, n
}

func (m *modelWindow) finish(id uint16) (store.Number, *store.Entry) {
	n := m.ids[id]
	e := m.entries[n]
	delete(m.ids, id)
	delete(m.inFlight, n)
	delete(m.entries, n)
	return n, e
}

// anyID returns a Packet Identifier in use.
func (m *modelWindow) anyID(r *rand.Rand) uint16 {
	ids := make([]uint16, 0, len(m.ids))
	for id := range m.ids {
		ids = append(ids, id)
	}
	slices.Sort(ids) // so that the seed repeats it
	return ids[r.IntN(len(ids))]
}

func (m *modelWindow) compare(t *testing.T, o *Outbound) {
	t.Helper()
	if o.Len() != len(m.inFlight) {
		t.Fatalf("Len: got %d, want %d", o.Len(), len(m.inFlight))
	}
	numbers := make([]store.Number, 0, len(m.inFlight))
	for n := range m.inFlight {
		numbers = append(numbers, n)
	}
	slices.SortFunc(numbers, func(a, b store.Number) int {
		if a.Less(b) {
			return -1
		}
		return 1
	})
	i := 0
	o.Each(func(s State, e *store.Entry) {
		if i >= len(numbers) || s != m.inFlight[numbers[i]] || e != m.entries[numbers[i]] {
			t.Fatalf("Each: the %d. is in state %d with entry %p", i, s, e)
		}
		i++
	})
	if i != len(numbers) {
		t.Fatalf("Each: got %d, want %d", i, len(numbers))
	}
	var unfinished store.Number // of numbers without a generation nothing is said
	if m.last.Generation > 0 {
		unfinished = store.Number{Generation: m.last.Generation, Seq: m.last.Seq + 1}
		if len(numbers) > 0 {
			unfinished = numbers[0]
		}
	}
	if got := o.Unfinished(); got != unfinished {
		t.Fatalf("Unfinished: got %v, want %v", got, unfinished)
	}
}

// Random operations on a window whose numbers are its own.
func TestOutboundModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		receiveMaximum := 1 + r.IntN(1+r.IntN(100))
		o, m := NewOutbound(receiveMaximum, 0), newModelWindow(receiveMaximum)
		next := store.Number{Seq: 1}
		for range 1500 {
			switch r.IntN(4) {
			case 0, 1:
				want := m.canSend(next)
				if got := o.CanSend(); got != want {
					t.Fatalf("CanSend with %d of %d in flight: got %v", o.Len(), receiveMaximum, got)
				}
				if !want {
					continue
				}
				qos := byte(1 + r.IntN(2))
				e := &store.Entry{}
				m.add(t, next, o.Send(qos, e), map[byte]State{1: AwaitingPuback, 2: AwaitingPubrec}[qos], e)
				next.Seq++
			case 2:
				if len(m.ids) == 0 {
					continue
				}
				id := m.anyID(r)
				wantNumber, wantEntry := m.finish(id)
				if n, e := o.Finish(id); n != wantNumber || e != wantEntry {
					t.Fatalf("Finish(%d): got %v, want %v", id, n, wantNumber)
				}
				if s := o.State(id); s != Unknown {
					t.Fatalf("State(%d) after its end: %d", id, s)
				}
			case 3:
				if len(m.ids) == 0 {
					continue
				}
				id, s := m.anyID(r), Releasing+State(r.IntN(2))
				n := m.ids[id]
				m.inFlight[n], m.entries[n] = s, nil
				if got := o.SetState(id, s); got != n || o.State(id) != s {
					t.Fatalf("SetState(%d): got %v, want %v", id, got, n)
				}
			}
			m.compare(t, &o)
		}
	}
}

// Random operations on a window over a store's numbers: some are skipped, generations change, and PUBRELs of before are resumed. Numbers
// come close to where Packet Identifiers are used again.
func TestOutboundNumbersModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		receiveMaximum := 1 + r.IntN(50)
		o, m := NewOutbound(receiveMaximum, 0), newModelWindow(receiveMaximum)
		n := store.Number{Generation: 1 + r.Uint64N(1<<32), Seq: 1 + r.Uint64N(200_000)}
		for range 600 {
			switch r.IntN(3) {
			case 0:
				switch r.IntN(10) {
				case 0:
					n.Seq += r.Uint64N(70_000)
				case 1:
					n = store.Number{Generation: n.Generation + r.Uint64N(2), Seq: max(1, n.Seq-n.Seq*r.Uint64N(2))}
				default:
					n.Seq += r.Uint64N(3)
				}
				if r.IntN(5) == 0 { // Receive Maximum doesn't hold for what was sent by an earlier connection
					want := m.fits(n)
					id, ok := o.Resume(n)
					if ok != want {
						t.Fatalf("Resume(%v): got %v, want %v", n, ok, want)
					}
					if ok {
						m.add(t, n, id, AwaitingPubcomp, nil)
					}
					continue
				}
				want := m.canSend(n)
				if got := o.CanSendNumber(n); got != want {
					t.Fatalf("CanSendNumber(%v) after %v, %d of %d in flight: got %v, want %v", n, m.last, o.Len(), receiveMaximum, got, want)
				}
				if want {
					e := &store.Entry{Number: n}
					m.add(t, n, o.SendNumber(n, 1, e), AwaitingPuback, e)
				}
			default:
				if len(m.ids) == 0 {
					continue
				}
				id := m.anyID(r)
				wantNumber, wantEntry := m.finish(id)
				if got, e := o.Finish(id); got != wantNumber || e != wantEntry {
					t.Fatalf("Finish(%d): got %v, want %v", id, got, wantNumber)
				}
			}
			m.compare(t, &o)
		}
	}
}

// The window is a span: 65535 numbers from the oldest unfinished one on, whatever is finished in between.
func TestOutboundSpan(t *testing.T) {
	o := NewOutbound(65535, 0)
	first := o.Send(1, nil)
	for range 65534 {
		id := o.Send(1, nil)
		if id == first {
			t.Fatal("a Packet Identifier is used again while it is in use")
		}
		o.Finish(id)
	}
	if o.CanSend() {
		t.Error("the span exceeds 65535")
	}
	if id, _ := o.Resume(store.Number{Seq: 65536}); id != 0 {
		t.Error("Resume exceeds the span")
	}
	o.Finish(first)
	if !o.CanSend() {
		t.Error("the window is empty and doesn't open")
	}
	if id := o.Send(1, nil); id != first {
		t.Errorf("the Packet Identifier after 65535 is %d, want %d", id, first)
	}
}

// So it is for a store's numbers, of which some are skipped.
func TestOutboundSpanOfNumbers(t *testing.T) {
	at := func(seq uint64) store.Number { return store.Number{Generation: 3, Seq: seq} }
	o := NewOutbound(10, 0)
	o.SendNumber(at(100), 1, nil)
	if !o.CanSendNumber(at(100 + 65534)) {
		t.Error("65534 above the oldest has a Packet Identifier of its own")
	}
	if o.CanSendNumber(at(100 + 65535)) {
		t.Error("65535 above the oldest has the same Packet Identifier")
	}
	if _, ok := o.Resume(at(100 + 65535)); ok {
		t.Error("65535 above the oldest has the same Packet Identifier, resumed or not")
	}
}

// A full window of 65535 has each Packet Identifier once, wherever it begins.
func TestOutboundWrapsAround(t *testing.T) {
	for _, first := range []store.Number{{Generation: 1, Seq: 1}, {Generation: 1, Seq: 40_000}, {Generation: 1 << 40, Seq: 1<<50 + 7}} {
		o := NewOutbound(65535, 0)
		seen := make([]bool, 65536)
		for i := range uint64(65535) {
			n := store.Number{Generation: first.Generation, Seq: first.Seq + i}
			if !o.CanSendNumber(n) {
				t.Fatalf("the window is full after %d", i)
			}
			id := o.SendNumber(n, 2, nil)
			if id == 0 || seen[id] {
				t.Fatalf("%v got Packet Identifier %d", n, id)
			}
			seen[id] = true
		}
		if o.CanSendNumber(store.Number{Generation: first.Generation, Seq: first.Seq + 65535}) {
			t.Error("65536 are in flight")
		}
		for id := range seen[1:] {
			if o.State(uint16(id+1)) != AwaitingPubrec {
				t.Fatalf("State(%d): %d", id+1, o.State(uint16(id+1)))
			}
		}
		for id := range seen[1:] {
			if n, _ := o.Finish(uint16(id + 1)); n.Generation != first.Generation {
				t.Fatalf("Finish(%d): %v", id+1, n)
			}
		}
		if o.Len() != 0 || o.ring != nil {
			t.Errorf("an empty window of %d keeps room for %d", o.Len(), len(o.ring))
		}
	}
}

// The same number has the same Packet Identifier wherever the session is resumed [MQTT-4.4.0-1], and another generation has others.
func TestOutboundPacketIdentifierFollowsNumber(t *testing.T) {
	n := store.Number{Generation: 1_700_000_000, Seq: 12345}
	a, b, c := NewOutbound(10, 0), NewOutbound(10, 0), NewOutbound(10, 0)
	a.SendNumber(store.Number{Generation: n.Generation, Seq: 12000}, 1, nil)
	id := a.SendNumber(n, 2, nil)
	if again, ok := b.Resume(n); !ok || again != id {
		t.Errorf("resumed as %d, was sent as %d", again, id)
	}
	if other := c.SendNumber(store.Number{Generation: n.Generation + 1, Seq: n.Seq}, 2, nil); other == id {
		t.Errorf("the next generation has Packet Identifier %d again", id)
	}
	first := NewOutbound(10, 0)
	if id := first.SendNumber(store.Number{Generation: 1, Seq: 1}, 1, nil); id != 1 {
		t.Errorf("the first Packet Identifier is %d", id)
	}
}

// A window never spans two generations.
func TestOutboundGenerations(t *testing.T) {
	o := NewOutbound(10, 0)
	id := o.SendNumber(store.Number{Generation: 5, Seq: 9}, 1, nil)
	next := store.Number{Generation: 6, Seq: 10}
	if o.CanSendNumber(next) {
		t.Error("an entry of the next generation may go out beside one of this")
	}
	if _, ok := o.Resume(next); ok {
		t.Error("a PUBREL of the next generation may go out beside a message of this")
	}
	o.Finish(id)
	if !o.CanSendNumber(next) {
		t.Error("an entry of the next generation can't go out though nothing is in flight")
	}
	o.SendNumber(next, 1, nil)
	if n, _ := o.Finish(o.SendNumber(store.Number{Generation: 6, Seq: 11}, 1, nil)); n != (store.Number{Generation: 6, Seq: 11}) {
		t.Errorf("got %v", n)
	}
}

func TestOutboundUnknownPacketIdentifiers(t *testing.T) {
	o := NewOutbound(10, 0)
	for _, id := range []uint16{0, 1, 65535} {
		if s := o.State(id); s != Unknown {
			t.Errorf("State(%d) of an empty window: %d", id, s)
		}
	}
	id := o.Send(1, nil)
	for _, other := range []uint16{0, id + 1, 65535} {
		if s := o.State(other); s != Unknown {
			t.Errorf("State(%d): %d", other, s)
		}
	}
}
