//go:build linux

package loadtest

// cycle has clients of Connects and Takeover connect: those that are due, or without a rate as many as there may be at a time.
func (s *section) cycle() {
	l := s.loop
	for len(s.available) > 0 && s.dials.busy < s.dials.limit {
		due := l.now
		if s.visits.rate > 0 {
			if due = s.visits.at(s.visited); due > l.now {
				return
			}
		}
		s.visited++
		c := s.available[0]
		s.available = s.available[1:]
		if c.other != nil && c.other.fd >= 0 {
			c.other.replaced = true
		}
		l.dial(c, due)
	}
}

// took says that a client of a takeover is connected. The other one has to go now.
func (s *section) took(c *client) {
	if c.other.fd < 0 {
		s.available = append(s.available, c.other)
	}
}

// left says that a client's connection has ended as it should.
func (s *section) left(c *client) {
	switch {
	case c.role == visitor && !s.closing:
		s.available = append(s.available, c)
	case c.role == taker && c.other.state == up && !s.closing:
		s.available = append(s.available, c)
	}
}

// failed says that a client's connection has ended as it shouldn't.
func (s *section) failed(c *client) {
	if c.role == taker && c.other.fd >= 0 {
		c.other.replaced = false // nobody replaces it
	}
}
