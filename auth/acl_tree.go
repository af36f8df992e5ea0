package auth

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// access is what rules say of a topic.
type access uint8

// The kinds of access. A denial outweighs what else is there.
const (
	read access = 1 << iota
	write
	deny
)

// maxTopicBytes is what a Topic Filter can have on the wire [MQTT-4.7.3-3].
const maxTopicBytes = 65535

var (
	errFilterEmpty    = errors.New("the Topic Filter is empty")
	errFilterLong     = errors.New("the Topic Filter is longer than 65535 bytes")
	errFilterText     = errors.New("the Topic Filter is not UTF-8, or has U+0000")
	errFilterWildcard = errors.New("wildcards of the Topic Filter: allowed: + as a whole level, # as the last level")
)

// aclTree holds Topic Filters with what they allow, compiled into a tree, so that a
// look-up costs by the levels of a topic and not by the number of rules. The zero
// value has none. It is built by one goroutine, and read by any number then.
type aclTree struct {
	root aclLevel
	n    int // rules
}

// aclLevel is a level of the tree.
type aclLevel struct {
	ends  access // of rules that end here
	below access // of rules with # as the next level, which match here too
	plus  *aclLevel
	next  map[string]*aclLevel
	vars  []variable
}

// variable is a level with %c or %u in it.
type variable struct {
	text string
	next *aclLevel
}

// add adds a rule. In the filter of a pattern %c stands for the client's Client
// Identifier and %u for its user name.
func (t *aclTree) add(a access, filter string, pattern bool) error {
	if err := checkFilter(filter); err != nil {
		return err
	}
	t.n++
	at := &t.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case level == "#":
			at.below |= a
			return nil
		case level == "+":
			if at.plus == nil {
				at.plus = &aclLevel{}
			}
			at = at.plus
		case pattern && variableIn(level) >= 0:
			at = at.variable(level)
		default:
			n := at.next[level]
			if n == nil {
				if at.next == nil {
					at.next = make(map[string]*aclLevel, 1)
				}
				n = &aclLevel{}
				at.next[level] = n
			}
			at = n
		}
	}
	at.ends |= a
	return nil
}

// variable returns the rule of a level with %c or %u.
func (n *aclLevel) variable(text string) *aclLevel {
	for _, v := range n.vars {
		if v.text == text {
			return v.next
		}
	}
	n.vars = append(n.vars, variable{text, &aclLevel{}})
	return n.vars[len(n.vars)-1].next
}

// checkFilter reports what is wrong with a Topic Filter [MQTT-4.7.1-1, MQTT-4.7.1-2].
func checkFilter(filter string) error {
	switch {
	case filter == "":
		return errFilterEmpty
	case len(filter) > maxTopicBytes:
		return errFilterLong
	case !utf8.ValidString(filter) || strings.IndexByte(filter, 0) >= 0:
		return errFilterText
	}
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if strings.ContainsAny(level, "+#") && (len(level) > 1 || level == "#" && more) {
			return errFilterWildcard
		}
	}
	return nil
}

// match returns the access of all the rules that match a Topic Name. A wildcard
// at the begin doesn't match a topic that begins with $ [MQTT-4.7.2-1], and
// neither does a %c or %u there.
//
// The values of %c and %u are the client's choice, and what they reach must not
// be. One with a level separator or a wildcard in it, which could leave the place
// meant for it, is never put in: rules that allow don't match then, and in those
// that deny it counts as +, so that nobody evades a denial by the choice of a name. Rules with
// %u don't match clients without a user name.
func (t *aclTree) match(topicName, clientID, username string) access {
	m := matching{clientID: clientID, username: username}
	m.walk(&t.root, topicName, true, read|write|deny)
	return m.found
}

// matching is one look-up.
type matching struct {
	clientID, username string
	found              access
}

// walk collects what matches the rest of a topic below a rule. Of what it finds
// only the bits of mask count.
func (m *matching) walk(n *aclLevel, rest string, first bool, mask access) {
	system := first && strings.HasPrefix(rest, "$")
	if !system {
		m.found |= n.below & mask
	}
	level, after, more := strings.Cut(rest, "/")
	if c := n.next[level]; c != nil {
		m.step(c, after, more, mask)
	}
	if system {
		return
	}
	if n.plus != nil {
		m.step(n.plus, after, more, mask)
	}
	for _, v := range n.vars {
		switch m.fits(v.text, level) {
		case fitsNot:
		case fitsUnsafely:
			m.step(v.next, after, more, mask&deny)
		case fitsWell:
			m.step(v.next, after, more, mask)
		}
	}
}

// step goes to the next level, or ends.
func (m *matching) step(n *aclLevel, rest string, more bool, mask access) {
	if !more {
		m.found |= (n.ends | n.below) & mask
		return
	}
	m.walk(n, rest, false, mask)
}

// fit is how a level of a topic fits one with %c or %u.
type fit uint8

const (
	fitsNot fit = iota
	fitsUnsafely
	fitsWell
)

// fits compares a level with text, in which %c and %u are replaced.
func (m *matching) fits(text, level string) fit {
	for {
		i := variableIn(text)
		if i < 0 {
			if level == text {
				return fitsWell
			}
			return fitsNot
		}
		value := m.clientID
		if text[i+1] == 'u' {
			value = m.username
		}
		switch {
		case value == "" || !strings.HasPrefix(level, text[:i]):
			return fitsNot
		case strings.ContainsAny(value, "/+#"):
			return fitsUnsafely
		case !strings.HasPrefix(level[i:], value):
			return fitsNot
		}
		text, level = text[i+2:], level[i+len(value):]
	}
}

// variableIn returns the index of the first %c or %u, or -1.
func variableIn(text string) int {
	for i := 0; i+1 < len(text); i++ {
		if text[i] == '%' && (text[i+1] == 'c' || text[i+1] == 'u') {
			return i
		}
	}
	return -1
}
