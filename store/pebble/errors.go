package pebble

import "errors"

var (
	// ErrInUse: another process, or this one, has the directory open.
	ErrInUse = errors.New("is in use by another loopmq")
	// ErrFormat: the directory was written by a newer loopmq, or not by loopmq.
	ErrFormat = errors.New("has a format that this loopmq does not know")
	// ErrForeign: the directory has files, none of which belongs to a store.
	ErrForeign = errors.New("is not a store of loopmq")
	// ErrDiskFull is why store.Store.Health complains when the free space falls
	// below the reserve.
	ErrDiskFull = errors.New("the disk is nearly full")

	errCorrupt = errors.New("record is damaged, or of an unknown version")
)
