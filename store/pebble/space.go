package pebble

import (
	"context"
	"fmt"
	"time"

	"loopmq/store"
)

// Pebble can't take back a write that the disk had no room for: its log would
// have a hole. So it is never given one. Below the reserve messages are
// refused; what makes room (acknowledgements, ends of sessions) goes on, and so
// do claims and subscriptions, which are small. Below an eighth of it only what
// deletes is written, and below a sixty-fourth nothing: what is left is for the
// files that Pebble merges meanwhile, which is how deletions give room back.

// space is what there is room for.
type space int

const (
	roomForNothing space = iota
	roomToDelete
	roomForSmall // for what is not a message
	roomForAll
)

// check returns nil if there is at least the room that is needed.
func (has space) check(needed space) error {
	if has < needed {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ErrDiskFull)
	}
	return nil
}

// room returns what there is room for. It asks the file system each time: that
// costs a microsecond, a commit a thousand.
func (s *Store) room() space {
	usage, err := s.opts.FS.GetDiskUsage(s.opts.Dir)
	if err != nil {
		return roomForAll // a file system that doesn't tell has no reserve
	}
	free, reserve := usage.AvailBytes, uint64(s.opts.ReserveBytes)
	low := free < reserve
	if s.lowDisk.Swap(low) != low {
		if low {
			select {
			case s.low <- struct{}{}:
			default: // it is to be woken already
			}
			s.log.Error("disk_full", "free_bytes", free, "reserve_bytes", reserve, "dir", s.opts.Dir)
		} else {
			s.log.Info("disk_has_room", "free_bytes", free, "reserve_bytes", reserve, "dir", s.opts.Dir)
		}
	}
	switch {
	case free < reserve/64:
		return roomForNothing
	case free < reserve/8:
		return roomToDelete
	case low:
		return roomForSmall
	}
	return roomForAll
}

// roomFor returns what the batch of ops needs at least. Messages are refused one
// by one.
func (t *tx) roomFor(ops []store.Op) space {
	needed := roomForNothing
	for i := range ops {
		switch op := &ops[i]; op.Kind {
		case store.OpRoute, store.OpUnroute:
		case store.OpEnqueue: // is Full then, and counted in memory
		case store.OpOffline, store.OpEndSession:
			if t.session(op.Session.ClientID).isStored() {
				needed = roomToDelete
			}
		case store.OpFinish, store.OpComplete, store.OpDropExpiredRetained:
			needed = roomToDelete
		case store.OpPublish:
			if len(op.Targets) > 0 || op.Retain || op.PacketID != 0 || op.WillOf != nil || op.Once != nil {
				return roomForSmall
			}
		default:
			return roomForSmall
		}
	}
	return needed
}

// roomForClaim returns what c needs at least: a session that ends with its
// connection writes nothing but its Will, and the end of the one before it.
func (t *tx) roomForClaim(c *store.Claim) space {
	switch before := t.session(c.ClientID); {
	case c.Durable || c.Will != nil:
		return roomForSmall
	case !before.isStored():
		return roomForNothing
	case c.CleanStart || !before.Durable:
		return roomToDelete
	}
	return roomForSmall
}

// roomInterval is how often the store looks whether there is something to give
// back while there is too little room.
const roomInterval = time.Second

// makeRoom gives back, while the free space is below the reserve, what the files
// hold beyond what is stored. It ends with Close or when the store fails.
func (s *Store) makeRoom() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // a compaction can take minutes
		select {
		case <-s.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	ticker := time.NewTicker(roomInterval)
	defer ticker.Stop()
	for ctx.Err() == nil && s.failure.Load() == nil {
		if s.lowDisk.Load() {
			if err := s.giveBack(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("disk_not_freed", "error", err) // the next turn tries again
			}
			s.room() // says so if there is room now
		}
		select {
		case <-s.stopped:
		case <-s.low:
		case <-ticker.C:
		}
	}
}

// giveBack gives back, if enough messages are deleted for it to be worth
// rewriting what is left: the logs of what is sorted into files, the old logs that
// were kept to be written over, and what is deleted. Less than that is left to
// Pebble, which does it by and by.
func (s *Store) giveBack(ctx context.Context) error {
	s.mu.Lock()
	worth := s.peak-s.used > s.peak/8
	s.mu.Unlock()
	if !worth {
		return nil
	}
	// Each new log gives back one that was kept, see disk.ReuseForWrite.
	for range memTablesMax + 2 {
		flushed, err := s.db.AsyncFlush()
		if err != nil {
			return err
		}
		select {
		case <-flushed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	used := s.used
	s.mu.Unlock()
	if err := s.db.Compact(ctx, []byte{0}, []byte{0xFF}, false); err != nil {
		return err
	}
	s.mu.Lock()
	s.peak = max(used, s.used)
	s.mu.Unlock()
	return nil
}
