package pebble

import "errors"

// Used is how many bytes the messages in s are counted with.
func (s *Store) Used() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// SharedMin is the size from which on messages are stored once.
const SharedMin = sharedMin

// DiskUsage is how many bytes the files take.
func (s *Store) DiskUsage() uint64 { return s.db.Metrics().DiskSpaceUsage() }

// Entries is how many entries of all queues there are in the database, those that
// were removed and not deleted yet included.
func (s *Store) Entries() (n int, err error) {
	err = each(s.db, []byte{keyEntry}, []byte{keyEntry + 1}, func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	})
	return n, err
}

// Keys is how many keys in the database begin with one of some prefixes.
func (s *Store) Keys(prefixes ...byte) (n int, err error) {
	for _, prefix := range prefixes {
		err = errors.Join(err, each(s.db, []byte{prefix}, []byte{prefix + 1}, func(_, _ []byte) (bool, error) {
			n++
			return true, nil
		}))
	}
	return n, err
}
