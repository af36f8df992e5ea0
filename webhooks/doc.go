// Package webhooks tells HTTP endpoints what happens in a broker: events are matched on the event loops, kept in an
// outbox of the store, and delivered from there at least once, signed, batched and retried.
//
// An Endpoint says what is sent where, and how. Events become records, which are compact and stay the same over all
// attempts; a request is made of records only when it is sent, so that its signature is of its own time.
package webhooks
