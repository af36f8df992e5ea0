package loadtest

import "slices"

// inflight is what a publisher has under way, oldest first. Packet Identifiers are given in turn, so that the one of an
// acknowledgement says where its message stands. The zero value is empty.
type inflight struct {
	ring  []flight // a power of two
	head  int      // the oldest
	span  int      // from the oldest to the newest, those between that are done included
	open  int      // not done
	first uint16   // Packet Identifier of the oldest, less 1
}

// A flight is one message under way.
type flight struct {
	number   uint64
	due      int64
	released bool // PUBREL was sent
	done     bool
}

// full says whether a window of messages is used up. The window is one of Packet Identifiers: what is done behind one that isn't
// takes its place still.
func (f *inflight) full(window int) bool { return f.span >= window }

// push adds a message and returns its Packet Identifier. The span must be below 65,535.
func (f *inflight) push(number uint64, due int64) uint16 {
	if f.span == len(f.ring) {
		grown := make([]flight, max(4, 2*len(f.ring)))
		for i := range f.span {
			grown[i] = f.ring[(f.head+i)&(len(f.ring)-1)]
		}
		f.ring, f.head = grown, 0
	}
	f.ring[(f.head+f.span)&(len(f.ring)-1)] = flight{number: number, due: due}
	id := f.id(f.span)
	f.span++
	f.open++
	return id
}

// id is the Packet Identifier at a distance from the oldest.
func (f *inflight) id(i int) uint16 { return uint16((int(f.first)+i)%65535 + 1) }

// at returns the message at a distance from the oldest.
func (f *inflight) at(i int) *flight { return &f.ring[(f.head+i)&(len(f.ring)-1)] }

// find returns the message with a Packet Identifier, nil if it isn't under way.
func (f *inflight) find(id uint16) *flight {
	i := (int(id) - 1 - int(f.first) + 65535) % 65535
	if i >= f.span {
		return nil
	}
	if m := f.at(i); !m.done {
		return m
	}
	return nil
}

// finish takes a message that find returned out.
func (f *inflight) finish(m *flight) {
	m.done = true
	f.open--
	for f.span > 0 && f.ring[f.head].done {
		f.head = (f.head + 1) & (len(f.ring) - 1)
		f.first = uint16((int(f.first) + 1) % 65535)
		f.span--
	}
}

// heldFew is how many Packet Identifiers are kept in a list. Most subscribers never hold more.
const heldFew = 32

// held are Packet Identifiers of QoS 2 that came and aren't released [MQTT-4.3.3-10]. The zero value is empty.
type held struct {
	few  []uint16
	many *[1 << 16 / 64]uint64 // bits, once there were more
}

// add adds one, and reports false if it is there already.
func (h *held) add(id uint16) bool {
	if h.many != nil {
		word, bit := &h.many[id/64], uint64(1)<<(id%64)
		if *word&bit != 0 {
			return false
		}
		*word |= bit
		return true
	}
	if slices.Contains(h.few, id) {
		return false
	}
	if h.few = append(h.few, id); len(h.few) > heldFew {
		h.many = new([1 << 16 / 64]uint64)
		for _, id := range h.few {
			h.many[id/64] |= 1 << (id % 64)
		}
		h.few = nil
	}
	return true
}

// remove removes one, if it is there.
func (h *held) remove(id uint16) {
	if h.many != nil {
		h.many[id/64] &^= 1 << (id % 64)
	} else if i := slices.Index(h.few, id); i >= 0 {
		h.few = slices.Delete(h.few, i, i+1)
	}
}
