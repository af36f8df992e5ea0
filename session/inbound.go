package session

import "slices"

// Inbound is the receiver's side of QoS 2: the Packet Identifiers of messages
// that were received and not released yet. The zero value is empty.
//
// They are kept sorted. Clients count upwards, so a new one mostly goes to the
// end, and the one released is mostly the first.
type Inbound struct {
	held []uint16
}

// Hold notes packetID, and reports false if it was held already: the PUBLISH is
// then a duplicate, and its message must not be passed on again [MQTT-4.3.3-10].
func (in *Inbound) Hold(packetID uint16) bool {
	if n := len(in.held); n == 0 || in.held[n-1] < packetID {
		in.held = append(in.held, packetID)
		return true
	}
	i, found := slices.BinarySearch(in.held, packetID)
	if !found {
		in.held = slices.Insert(in.held, i, packetID)
	}
	return !found
}

// Release forgets packetID, and reports whether it was held.
func (in *Inbound) Release(packetID uint16) bool {
	i, found := slices.BinarySearch(in.held, packetID)
	if found {
		in.held = slices.Delete(in.held, i, i+1)
		if len(in.held) == 0 && cap(in.held) > 64 {
			in.held = nil
		}
	}
	return found
}

// Len returns how many Packet Identifiers are held.
func (in *Inbound) Len() int { return len(in.held) }
