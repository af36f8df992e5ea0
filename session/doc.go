// Package session holds the state machines of a session: what is in flight in
// each direction, Packet Identifiers, and the bounded queue of messages that
// wait for a place in the window.
//
// A session's state belongs to the event loop of its connection and is touched
// there only, so nothing here takes a lock, and nothing here is safe for
// concurrent use.
package session
