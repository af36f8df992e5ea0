package opcuaserver

import (
	"time"
)

// What the two processes say to each other, by net/rpc: the child calls methods of `link`.

// Setup is what the child has to know.
type Setup struct {
	ApplicationURI, ApplicationName, Version string
	// Certificate is DER, Key PKCS #8; both empty: there are none.
	Certificate, Key []byte
	// None and Basic256Sha256 are the policies that are offered; AllowSign: also without encryption.
	None, Basic256Sha256, AllowSign bool
	// TrustedApplications and TrustedUsers are certificates, or those of CAs, as DER.
	TrustedApplications, TrustedUsers [][]byte
	// Anonymous and PlainPassword say whether sessions without a user, and passwords without encryption, are allowed.
	Anonymous, PlainPassword bool
	// Known are topics that have a variable though they have no value yet.
	Known []string
	// Bounds; see Options.
	Connections, Sessions, Subscriptions, Items, Queue, MessageBytes int
	SessionTimeout                                                   time.Duration
	PublishingInterval                                               time.Duration
	MemoryBytes                                                      int64
	Debug                                                            bool
}

// Opening is who wants a session.
type Opening struct {
	Username    string
	HasUsername bool
	Password    []byte
	// Certificate is the user's, DER; the child has checked it, and that the user has its key.
	Certificate []byte
	Address     string
	Name        string // of the session
}

// Opened is who was let in.
type Opened struct {
	Handle   uint64
	Username string
	Refusal  Refusal
}

// Refusal says why something wasn't done.
type Refusal uint8

// The refusals.
const (
	refusalNone Refusal = iota
	// refusalCredentials: the user isn't known, or must not.
	refusalCredentials
	// refusalNotAuthorized: the user may not.
	refusalNotAuthorized
	// refusalEnded: the user has been sent away, or the identity has expired.
	refusalEnded
	// refusalRate: more than is allowed in the time.
	refusalRate
	// refusalTooLarge: above a limit of messages.
	refusalTooLarge
	// refusalInvalid: no message could be so.
	refusalInvalid
	// refusalUnavailable: the broker is stopping, its store didn't take it, or too much is under way.
	refusalUnavailable
)

// Asking is what a user wants to do with topics.
type Asking struct {
	Handle uint64
	Write  bool
	Topics []string
}

// Allowed is which of them it may.
type Allowed struct {
	Allowed []bool
	Refusal Refusal // refusalEnded, or none
}

// Writing is a message of a user.
type Writing struct {
	Handle  uint64
	Topic   string
	Payload []byte
	Text    bool // it is UTF-8
}

// Polling asks for what has changed, and says how the child is.
type Polling struct {
	Cursor uint64
	Report Report
	Events []Event
}

// Report is what the child counts.
type Report struct {
	Refused                                  [numRefused]uint64 // since the last one
	Channels, Sessions, Subscriptions, Items int64
	Busy                                     time.Duration // for how long with the request that takes longest
}

// Event is a line of the log.
type Event struct {
	Level int
	Name  string
	Attrs []string // names and values
}

// Changed is what has changed since a cursor.
type Changed struct {
	Cursor uint64
	Values []Value
}

// Value is the last message of a topic.
type Value struct {
	Topic   string
	Payload []byte
	Time    time.Time
	// Removed: there is no such topic any more. TooLarge: the message is, and isn't here.
	Removed, TooLarge bool
}

// refused says why the child refused something; the order is that of metrics.OPCUAServerRefusal.
type refused uint8

const (
	refusedConnections refused = iota
	refusedCertificate
	refusedProtocol
	refusedCredentials
	refusedNotAuthorized
	refusedSessions
	refusedSubscriptions
	refusedItems
	refusedUnsupported
	refusedTooLarge
	refusedValue

	numRefused = int(iota)
)
