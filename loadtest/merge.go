package loadtest

// Ledger is what an audit is computed from, once it is complete: what was sent, and what came. Results of processes that run a
// scenario together have one, since a process alone knows only of its own clients.
type Ledger struct {
	Senders []Sender `json:"senders"`
	Heard   []Heard  `json:"heard"`
}

// Sender is what a publisher has sent.
type Sender struct {
	Part      int    `json:"part"`      // of a mixed scenario
	Publisher int    `json:"publisher"` // its number
	Sent      uint64 `json:"sent"`      // messages, numbered from 0
	// Unpromised are the numbers that were never acknowledged, as ranges [from, to).
	Unpromised [][2]uint64 `json:"unpromised,omitempty"`
}

// Heard is what a subscriber, or a shared subscription, has had of one publisher.
type Heard struct {
	Part      int         `json:"part"`
	Publisher int         `json:"publisher"`
	Next      uint64      `json:"next"`              // one above the highest number
	Missing   [][2]uint64 `json:"missing,omitempty"` // below that, as ranges [from, to)
	Excused   [][2]uint64 `json:"excused,omitempty"` // numbers that may be missing, as ranges [from, to)
}
