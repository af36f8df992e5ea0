package store

import "errors"

var (
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrGone: there is no such session or queue.
	ErrGone = errors.New("no such session or queue in the store")
	// ErrUnavailable: the store can't be reached or can't write at the moment;
	// nothing was lost, and the call may be repeated.
	ErrUnavailable = errors.New("store is unavailable")
)
