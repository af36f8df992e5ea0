package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// grantFiltersMax bounds the Topic Filters of a Grant.
const grantFiltersMax = 1000

// Grant is what a client's own credentials allow it: a claim of its token, or the
// answer of the HTTP service that knows it. As JSON:
//
//	{"publish": ["sensors/%c/#"], "subscribe": ["commands/%c/+", "news/#"]}
//
// The client may publish to a Topic Name that a filter under publish matches, and
// subscribe to a Topic Filter if one under subscribe matches whatever it matches. What
// isn't listed is refused. %c stands for the Client Identifier, %u for the user name;
// a filter is left out for a client whose name has /, + or # in it, since that would
// make another filter of it. A Grant does not change.
type Grant struct {
	publish   []string
	subscribe []string
}

// newGrant makes a Grant of decoded JSON.
func newGrant(acl any, clientID, username string) (*Grant, error) {
	text, err := json.Marshal(acl)
	if err != nil {
		return nil, err
	}
	return parseGrant(text, clientID, username)
}

func parseGrant(text []byte, clientID, username string) (*Grant, error) {
	var lists struct {
		Publish   []string `json:"publish"`
		Subscribe []string `json:"subscribe"`
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&lists); err != nil {
		return nil, fmt.Errorf(`not lists of Topic Filters; allowed: {"publish": [...], "subscribe": [...]}: %w`, err)
	}
	if len(lists.Publish)+len(lists.Subscribe) > grantFiltersMax {
		return nil, fmt.Errorf("more than %d Topic Filters", grantFiltersMax)
	}
	publish, err := fillIn(lists.Publish, clientID, username)
	subscribe, err2 := fillIn(lists.Subscribe, clientID, username)
	if err = errors.Join(err, err2); err != nil {
		return nil, err
	}
	return &Grant{publish, subscribe}, nil
}

// fillIn replaces %c and %u.
func fillIn(filters []string, clientID, username string) ([]string, error) {
	var out []string
	for _, f := range filters {
		if !codec.ValidTopicFilter([]byte(f)) {
			return nil, fmt.Errorf("%q is not a Topic Filter", f)
		}
		c, u := strings.Contains(f, "%c"), strings.Contains(f, "%u")
		if c && !oneLevel(clientID) || u && !oneLevel(username) {
			continue
		}
		// At once, since a name may have %u in it.
		f = strings.NewReplacer("%c", clientID, "%u", username).Replace(f)
		if codec.ValidTopicFilter([]byte(f)) {
			out = append(out, f)
		}
	}
	return out, nil
}

// oneLevel reports whether a name is one level of a topic, and no wildcard.
func oneLevel(name string) bool { return name != "" && !strings.ContainsAny(name, "/+#") }

// Allows reports whether the Grant allows an action with a Topic Name, or the Topic
// Filter of a subscription. It does not block.
func (g *Grant) Allows(a loopmq.Action, topic string) bool {
	filters := g.subscribe
	if a == loopmq.ActionPublish {
		filters = g.publish
	}
	for _, f := range filters {
		if covers(f, topic) {
			return true
		}
	}
	return false
}

// covers reports whether a Topic Filter matches all that another one, or a Topic Name,
// matches. A wildcard at the first level doesn't match a $ [MQTT-4.7.2-1].
func covers(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && (filter[0] == '#' || filter[0] == '+') {
		return false
	}
	for {
		f, restOfFilter, more := strings.Cut(filter, "/")
		t, restOfTopic, moreTopic := strings.Cut(topic, "/")
		switch {
		case f == "#":
			return true
		case t == "#", f != "+" && f != t:
			return false
		case !moreTopic:
			return !more || restOfFilter == "#" // a/# matches a, too
		case !more:
			return false
		}
		filter, topic = restOfFilter, restOfTopic
	}
}

// Claims is a [Rule]: a client with a [Grant] may do what that allows, and nothing
// else. Others are left to the next Rule.
type Claims struct{}

var _ FastRule = Claims{}

// Name returns "claims".
func (Claims) Name() string { return metrics.AuthClaims.String() }

// Judge looks at the client's Grant.
func (r Claims) Judge(_ context.Context, c *loopmq.ClientInfo, a loopmq.Action, topic string, qos byte, retain bool) (Decision, error) {
	d, _ := r.JudgeFast(c, a, topic, qos, retain)
	return d, nil
}

// JudgeFast is Judge: it needs nothing but memory.
func (Claims) JudgeFast(c *loopmq.ClientInfo, a loopmq.Action, topic string, _ byte, _ bool) (Decision, bool) {
	g, ok := c.ACL.(*Grant)
	switch {
	case !ok:
		return Next, true
	case g.Allows(a, topic):
		return Accept, true
	}
	return Reject, true
}
