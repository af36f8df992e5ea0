package store

import (
	"context"
	"errors"
	"strings"
	"time"
)

// Ban keeps a client out. The store doesn't look at what is in it.
type Ban struct {
	Kind  string // what is banned; without a slash
	Value string // at most MaxBanValue bytes, with Kind
	// Until is when it ends; zero: when it is removed. It is told by the milliseconds.
	Until  time.Time
	Reason string // at most MaxBanReason bytes
	Source string // without a space
}

// Bounds of a Ban.
const (
	MaxBanValue  = 65_000
	MaxBanReason = 1024
)

// Name is what a ban is known by: there is one with each Kind and Value.
func (b *Ban) Name() string { return b.Kind + "/" + b.Value }

// Named sets Kind and Value to those of a name.
func (b *Ban) Named(name string) { b.Kind, b.Value, _ = strings.Cut(name, "/") }

// Fits reports whether the ban is within its bounds.
func (b *Ban) Fits() bool {
	return len(b.Kind)+len(b.Value) < MaxBanValue && len(b.Reason) <= MaxBanReason && !strings.Contains(b.Kind, "/") && !strings.Contains(b.Source, " ")
}

// ErrTooManyBans means that there are as many as are allowed.
var ErrTooManyBans = errors.New("there are as many bans as are allowed")

// ErrBanTooLarge means that a ban exceeds its bounds.
var ErrBanTooLarge = errors.New("a ban is too large")

// Bans keeps who is banned, for all nodes. In a Shared store each change is a Change,
// and reaches the Node of each instance, the one that made it too.
type Bans interface {
	// Put adds a ban, or replaces the one with its name. ErrTooManyBans: there are limit
	// others; ErrBanTooLarge.
	Put(ctx context.Context, b Ban, limit int) error
	// Remove removes the ban with a name, and reports whether it has. With a time only if
	// the ban has ended by then.
	Remove(ctx context.Context, name string, endedBy time.Time) (bool, error)
	// List returns up to limit bans behind a name, in the order of their names; also those
	// that have ended.
	List(ctx context.Context, afterName string, limit int) ([]Ban, error)
}
