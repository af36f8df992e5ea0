package loopmq

import "slices"

// filterSet is the Topic Filters of a session. Most have one or a few; only many
// have an index.
type filterSet struct {
	all   []string
	index map[string]int // where each is in all; nil up to filtersSearched
}

// filtersSearched is up to how many filters a search is about as fast as a map.
const filtersSearched = 16

func (s *filterSet) find(topicFilter string) (i int, ok bool) {
	if s.index != nil {
		i, ok = s.index[topicFilter]
		return i, ok
	}
	i = slices.Index(s.all, topicFilter)
	return i, i >= 0
}

// add adds a filter that is not there.
func (s *filterSet) add(topicFilter string) {
	s.all = append(s.all, topicFilter)
	switch n := len(s.all); {
	case s.index != nil:
		s.index[topicFilter] = n - 1
	case n > filtersSearched:
		s.index = make(map[string]int, 2*n)
		for i, f := range s.all {
			s.index[f] = i
		}
	}
}

// remove removes a filter, and reports whether it was there. The last one takes
// its place.
func (s *filterSet) remove(topicFilter string) bool {
	i, ok := s.find(topicFilter)
	if !ok {
		return false
	}
	last := len(s.all) - 1
	if s.index != nil {
		s.index[s.all[last]] = i
		delete(s.index, topicFilter)
	}
	s.all[i], s.all[last] = s.all[last], ""
	if s.all = s.all[:last]; last == 0 {
		*s = filterSet{}
	}
	return true
}
