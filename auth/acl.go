package auth

import (
	"context"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"loopmq"
	"loopmq/metrics"
)

// ACLFile is a loopmq.Authorizer with the rules of a file in mosquitto's syntax:
//
//	# Clients without a user name.
//	topic read public/#
//
//	user alice
//	topic readwrite home/+/light
//	topic deny home/attic/#
//
//	# All clients, also those above.
//	pattern write devices/%c/status
//	pattern read users/%u/#
//
// A client's rules are those of its user, or of the lines before the first user
// if it has no user name; then the patterns. Of each set a deny counts first,
// whatever the order, and the first set that says something decides: a topic that
// a user may read stays readable though a pattern denies it. What nothing allows
// is denied.
//
// As with mosquitto anybody may subscribe to anything, and gets those messages
// whose topics are readable: it is deliveries that are judged. With any pattern
// in the file, clients with + or # in user name or Client Identifier have the
// rules of their user only.
//
// Its methods may be called by any number of goroutines.
type ACLFile struct {
	path string
	acl  atomic.Pointer[acl]
}

var (
	_ loopmq.FastAuthorizer     = (*ACLFile)(nil)
	_ loopmq.DeliveryAuthorizer = (*ACLFile)(nil)
	_ loopmq.DecisionTTL        = (*ACLFile)(nil)
)

// blanks are what mosquitto trims.
const blanks = " \t\r\n\v\f"

// acl is what a file says. It doesn't change.
type acl struct {
	anonymous aclTree
	users     map[string]*aclTree
	patterns  aclTree
}

// OpenACLFile reads a file of rules. Its error names all lines that are wrong.
func OpenACLFile(path string) (*ACLFile, error) {
	f := &ACLFile{path: path}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Reload reads the file again. If anything is wrong with it, the rules stay as
// they are. Whoever keeps decisions has to forget them: Broker.DropDecisions.
func (f *ACLFile) Reload() error {
	apply, err := f.Prepare()
	if err != nil {
		return err
	}
	apply()
	return nil
}

// Prepare reads the file, and returns what makes its rules the current ones, so
// that several files can be changed together or not at all.
func (f *ACLFile) Prepare() (apply func(), err error) {
	text, err := readFile(f.path)
	if err != nil {
		return nil, err
	}
	a, err := parseACL(f.path, text)
	if err != nil {
		return nil, err
	}
	return func() { f.acl.Store(a) }, nil
}

// Name returns "acl_file", which is what metrics call it.
func (f *ACLFile) Name() string { return metrics.AuthACL.String() }

// Judge returns Accept for what a rule allows and for each subscription, Reject
// for what a rule denies, and Next for what no rule mentions. It doesn't block.
func (f *ACLFile) Judge(_ context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) (Decision, error) {
	return f.judge(c, a, topic), nil
}

// JudgeFast is Judge, which never blocks.
func (f *ACLFile) JudgeFast(c *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) (d Decision, known bool) {
	return f.judge(c, a, topic), true
}

// Authorize reports whether a rule allows a.
func (f *ACLFile) Authorize(_ context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) bool {
	return f.judge(c, a, topic) == Accept
}

// AuthorizeFast is Authorize, which never blocks.
func (f *ACLFile) AuthorizeFast(c *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) (allowed, known bool) {
	return f.judge(c, a, topic) == Accept, true
}

// AuthorizesDeliveries returns true: the access to read is judged there.
func (f *ACLFile) AuthorizesDeliveries() bool { return true }

// DecisionTTL returns a negative number: rules hold until Reload.
func (f *ACLFile) DecisionTTL() time.Duration { return -1 }

func (f *ACLFile) judge(c *loopmq.ClientInfo, a loopmq.Action, topic string) Decision {
	switch a {
	case loopmq.ActionSubscribe:
		return Accept
	case loopmq.ActionPublish:
		return f.acl.Load().judge(write, topic, c.ClientID, c.Username)
	case loopmq.ActionDeliver:
		return f.acl.Load().judge(read, topic, c.ClientID, c.Username)
	}
	return Reject
}

// judge judges access to a Topic Name. An empty user name is none.
func (a *acl) judge(want access, topic, clientID, username string) Decision {
	own := &a.anonymous
	if username != "" {
		own = a.users[username]
	}
	if own != nil {
		if d := decide(own.match(topic, clientID, username), want); d != Next {
			return d
		}
	}
	if a.patterns.n == 0 {
		return Next
	}
	if strings.ContainsAny(clientID, "+#") || strings.ContainsAny(username, "+#") {
		return Reject
	}
	return decide(a.patterns.match(topic, clientID, username), want)
}

// decide is what rules that match say of access.
func decide(got, want access) Decision {
	switch {
	case got&deny != 0:
		return Reject
	case got&want != 0:
		return Accept
	}
	return Next
}

// accesses are the words for access in a file.
var accesses = map[string]access{"read": read, "write": write, "readwrite": read | write, "deny": deny}

// parseACL reads a file. Words are separated by spaces; a user name or Topic
// Filter is the rest of its line, with the spaces in it.
func parseACL(path string, text []byte) (*acl, error) {
	a := &acl{users: map[string]*aclTree{}}
	own := &a.anonymous
	p := problems{path: path}
	eachLine(text, func(n int, line string) {
		line = strings.TrimLeft(line, " ")
		if line == "" || line[0] == '#' {
			return
		}
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.Trim(rest, blanks)
		switch word {
		case "user":
			switch {
			case rest == "":
				p.add(n, "user: the name is missing")
			case !utf8.ValidString(rest) || strings.IndexByte(rest, 0) >= 0:
				p.add(n, "user: the name is not UTF-8, or has U+0000")
			case a.users[rest] == nil:
				a.users[rest] = &aclTree{}
			}
			own = a.users[rest]
			if own == nil { // of a user that can't be: a place for what follows
				own = &aclTree{}
			}
		case "topic", "pattern":
			want, filter := read|write, rest
			if w, f, two := strings.Cut(rest, " "); two {
				var known bool
				if want, known = accesses[w]; !known {
					p.add(n, "%s: access %.40q: allowed: read, write, readwrite, deny", word, w)
					return
				}
				filter = strings.Trim(f, blanks)
			}
			to := own
			if word == "pattern" {
				to = &a.patterns
			}
			if err := to.add(want, filter, word == "pattern"); err != nil {
				p.add(n, "%s: %w", word, err)
			}
		default:
			p.add(n, "%.40q: allowed: user, topic, pattern, and comments that begin with #", word)
		}
	})
	if err := p.err(); err != nil {
		return nil, err
	}
	return a, nil
}
