package pebble

import (
	"fmt"

	"loopmq/store"
)

// Pebble can't take back a write that the disk had no room for: its log would
// have a hole. So it is never given one. Below the reserve messages are
// refused; what makes room (acknowledgements, ends of sessions) goes on, and so
// do claims and subscriptions, which are small. Below an eighth of it nothing is
// written any more: what is left is for the files that Pebble merges meanwhile,
// which is how deletions give room back.

// room reports whether there is room for messages; an error says that there is
// none for anything. It asks the file system each time: that costs a
// microsecond, a commit a thousand.
func (s *Store) room() (bool, error) {
	usage, err := s.opts.FS.GetDiskUsage(s.opts.Dir)
	if err != nil {
		return true, nil //nolint:nilerr // a file system that doesn't tell has no reserve
	}
	free, reserve := usage.AvailBytes, uint64(s.opts.ReserveBytes)
	low := free < reserve
	if s.lowDisk.Swap(low) != low {
		if low {
			s.log.Error("disk_full", "free_bytes", free, "reserve_bytes", reserve, "dir", s.opts.Dir)
		} else {
			s.log.Info("disk_has_room", "free_bytes", free, "reserve_bytes", reserve, "dir", s.opts.Dir)
		}
	}
	if free < reserve/8 {
		return false, fmt.Errorf("%w: %w", store.ErrUnavailable, ErrDiskFull)
	}
	return !low, nil
}
