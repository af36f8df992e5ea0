package loadtest

// Ledger is what the audit of messages between processes is computed from. A process that runs a part of a scenario knows only
// what its own clients have sent and got; Merge puts that together.
type Ledger struct {
	Senders []Sender `json:"senders"`
	Heard   []Heard  `json:"heard"`
	// Resent says that publishers sent messages again after a reconnect, which at QoS 1 explains duplicates.
	Resent bool `json:"resent,omitempty"`
}

// Sender is what a publisher has sent.
type Sender struct {
	Part      int    `json:"part"` // of a mixed scenario
	Publisher int    `json:"publisher"`
	QoS       byte   `json:"qos"`
	Sent      uint64 `json:"sent"` // messages, numbered from 0
	// Unpromised are the numbers that were never acknowledged, as ranges [from, to).
	Unpromised spans `json:"unpromised,omitempty"`
}

// Heard is what a subscriber, or a shared subscription, has had of one publisher.
type Heard struct {
	Part      int    `json:"part"`
	Publisher int    `json:"publisher"`
	Next      uint64 `json:"next"`              // one above the highest number that came
	Away      bool   `json:"away,omitempty"`    // the subscriber is away: it needn't get what follows
	Missing   spans  `json:"missing,omitempty"` // numbers below Next that didn't come, as ranges [from, to)
	Excused   spans  `json:"excused,omitempty"` // numbers that needn't come
	Lost      uint64 `json:"lost,omitempty"`    // numbers that are missing, beyond what Missing remembers
}
