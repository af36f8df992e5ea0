package loopmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"loopmq/store"
	"loopmq/trie"
)

// SubscriptionStatus is one subscription of a client.
type SubscriptionStatus struct {
	ClientID string `json:"client_id"`
	// TopicFilter is as the client sent it, with $share/{ShareName}/ if it is shared.
	TopicFilter            string `json:"topic_filter"`
	QoS                    byte   `json:"qos"`
	NoLocal                bool   `json:"no_local"`
	RetainAsPublished      bool   `json:"retain_as_published"`
	RetainHandling         byte   `json:"retain_handling"`
	SubscriptionIdentifier uint32 `json:"subscription_identifier,omitempty"`
}

// SubscriptionFilter says which subscriptions a list is to have: those that all of its
// fields that are set hold for.
type SubscriptionFilter struct {
	// ClientID is whose they are. ErrNoSession if there is no such client.
	ClientID string
	// ClientIDPrefix: of clients whose ClientIDs begin with it.
	ClientIDPrefix string
	// TopicFilter is the Topic Filter as it is, TopicName what it matches. A shared
	// subscription matches as its filter does.
	TopicFilter, TopicName string
}

func (f *SubscriptionFilter) matches(topicFilter string) bool {
	if f.TopicFilter != "" && topicFilter != f.TopicFilter {
		return false
	}
	return f.TopicName == "" || trie.MatchesName(topicFilter, f.TopicName)
}

// SubscriptionPage is one page of a list, see ClientPage.
type SubscriptionPage struct {
	Subscriptions []SubscriptionStatus `json:"subscriptions"`
	Next          string               `json:"next,omitempty"`
}

// Subscriptions lists subscriptions by ClientID and Topic Filter, up to limit (0:
// ListMax) of them behind the Next of the page before (empty at first). Those of
// sessions that end with their connections are known to the node of the connection
// only: it is asked, and if it doesn't answer there is an error that wraps
// store.ErrUnavailable.
func (b *Broker) Subscriptions(ctx context.Context, f SubscriptionFilter, after string, limit int) (SubscriptionPage, error) {
	l := subscriptionList{b: b, filter: &f, limit: pageLimit(limit)}
	l.page.Subscriptions = []SubscriptionStatus{}
	var err error
	if l.after, err = parseSubscriptionCursor(after); err != nil {
		return l.page, err
	}
	if f.ClientID != "" {
		se, err := b.store.Sessions().Lookup(ctx, f.ClientID)
		if errors.Is(err, store.ErrGone) {
			return l.page, ErrNoSession
		}
		if err == nil {
			_, err = l.add(ctx, []store.Session{se})
		}
		return l.page, err
	}
	if l.after.topicFilter != "" { // the client that the page before ended with
		se, err := b.store.Sessions().Lookup(ctx, l.after.clientID)
		if err != nil && !errors.Is(err, store.ErrGone) {
			return l.page, err
		}
		if err == nil {
			if more, err := l.add(ctx, []store.Session{se}); err != nil || !more {
				return l.page, err
			}
		}
	}
	q := store.SessionQuery{After: l.after.clientID, Prefix: f.ClientIDPrefix, Limit: sessionsAsked}
	for looked := 0; ; {
		sessions, err := b.store.Sessions().List(ctx, q)
		if err != nil {
			return l.page, err
		}
		if more, err := l.add(ctx, sessions.Sessions); err != nil || !more {
			return l.page, err
		}
		if sessions.Next == "" {
			return l.page, nil
		}
		q.After = sessions.Next
		if looked += q.Limit; looked >= lookMax {
			l.page.Next = subscriptionCursor{q.After, lastFilter}.String()
			return l.page, nil
		}
	}
}

// sessionsAsked is how many sessions' subscriptions are asked for at a time.
const sessionsAsked = 250

// subscriptionCursor is a place in the list: behind a filter of a client.
type subscriptionCursor struct{ clientID, topicFilter string }

// lastFilter is behind all Topic Filters.
const lastFilter = "\U0010FFFF"

// String returns the cursor as text: the length of the ClientID, which may have any
// character, and then both.
func (c subscriptionCursor) String() string {
	return strconv.Itoa(len(c.clientID)) + ":" + c.clientID + c.topicFilter
}

func parseSubscriptionCursor(s string) (c subscriptionCursor, err error) {
	if s == "" {
		return c, nil
	}
	length, rest, ok := strings.Cut(s, ":")
	n, err := strconv.Atoi(length)
	if !ok || err != nil || n < 0 || n > len(rest) {
		return c, fmt.Errorf("%w: %q", ErrCursor, s)
	}
	return subscriptionCursor{rest[:n], rest[n:]}, nil
}

// ErrCursor means that what is said to be the Next of a page isn't.
var ErrCursor = errors.New("loopmq: not the Next of a page")

// subscriptionList is a page that is being made.
type subscriptionList struct {
	b      *Broker
	filter *SubscriptionFilter
	limit  int
	after  subscriptionCursor
	page   SubscriptionPage
}

// add adds the subscriptions of sessions, which are in the order of their ClientIDs. It
// reports false if the page is full; it has its Next then.
func (l *subscriptionList) add(ctx context.Context, sessions []store.Session) (more bool, err error) {
	elsewhere, cut, err := l.ask(ctx, sessions)
	if err != nil {
		return false, err
	}
	for i := range sessions {
		id := sessions[i].ID
		from := l.from(id.ClientID)
		subscriptions, known := elsewhere[id.ClientID]
		if !known {
			subscriptions = l.b.subscriptionsHere(id, from, l.filter, l.limit+1)
		}
		for _, sub := range subscriptions {
			if n := len(l.page.Subscriptions); n == l.limit {
				last := &l.page.Subscriptions[n-1]
				l.page.Next = subscriptionCursor{last.ClientID, last.TopicFilter}.String()
				return false, nil
			}
			l.page.Subscriptions = append(l.page.Subscriptions, sub)
		}
		if cut[id.ClientID] { // there are more of them
			l.page.Next = subscriptionCursor{id.ClientID, subscriptions[len(subscriptions)-1].TopicFilter}.String()
			return false, nil
		}
	}
	return true, nil
}

// from returns the filter behind which those of a client are wanted.
func (l *subscriptionList) from(clientID string) string {
	if clientID == l.after.clientID {
		return l.after.topicFilter
	}
	return ""
}

// ask asks other instances for the subscriptions of their clients whose sessions are not
// durable: nobody else knows them. cut are those clients of which not all were answered.
func (l *subscriptionList) ask(ctx context.Context, sessions []store.Session) (found map[string][]SubscriptionStatus, cut map[string]bool, err error) {
	if l.b.cluster == nil {
		return nil, nil, nil
	}
	questions := map[string]*subscriptionQuestion{}
	for i := range sessions {
		se := &sessions[i]
		if se.Owner == "" || se.Owner == l.b.owner() || l.b.registry.known(se.ID) != nil {
			continue
		}
		q := questions[se.Owner]
		if q == nil {
			q = &subscriptionQuestion{Filter: *l.filter}
			questions[se.Owner] = q
		}
		q.Clients = append(q.Clients, clientQuestion{se.ID.ClientID, se.ID.Incarnation, l.from(se.ID.ClientID)})
	}
	found, cut = map[string][]SubscriptionStatus{}, map[string]bool{}
	for instance, all := range questions {
		for rest := all.Clients; len(rest) > 0; {
			q := &subscriptionQuestion{Filter: all.Filter, Clients: rest[:clientsFitting(rest)]}
			var answer subscriptionAnswer
			err := l.b.ask(ctx, instance, inquiry{Subscriptions: q}, &answer)
			if errors.Is(err, store.ErrGone) { // it has died, and those sessions with it
				break
			}
			if err != nil {
				return nil, nil, err
			}
			if answer.Answered <= 0 || answer.Answered > len(q.Clients) {
				return nil, nil, fmt.Errorf("%w: node %s: %w", store.ErrUnavailable, instance, errAnswer)
			}
			for _, c := range rest[:answer.Answered] {
				found[c.ClientID] = nil
			}
			for _, sub := range answer.Subscriptions {
				found[sub.ClientID] = append(found[sub.ClientID], sub)
			}
			for _, clientID := range answer.Cut {
				cut[clientID] = true
			}
			rest = rest[answer.Answered:]
		}
	}
	return found, cut, nil
}

// clientsFitting returns how many of the clients fit one question.
func clientsFitting(clients []clientQuestion) int {
	size := 0
	for i := range clients {
		size += jsonSize(clients[i].ClientID, clients[i].After)
		if size > answerBytes && i > 0 {
			return i
		}
	}
	return len(clients)
}

// jsonSize is about how long an object with some strings is as JSON, where most
// characters are as they are.
func jsonSize(texts ...string) int {
	size := 200
	for _, s := range texts {
		size += 2 * len(s)
	}
	return size
}

// subscriptionQuestion asks an instance for the subscriptions of some of its clients,
// each behind a Topic Filter.
type subscriptionQuestion struct {
	Filter  SubscriptionFilter
	Clients []clientQuestion
}

type clientQuestion struct {
	ClientID    string
	Incarnation uint64
	After       string
}

// subscriptionAnswer has the subscriptions of the first Answered clients. Of those in
// Cut there are more.
type subscriptionAnswer struct {
	Answered      int
	Cut           []string
	Subscriptions []SubscriptionStatus
}

const (
	// answerSubscriptions is how many subscriptions of one client an answer has at most.
	answerSubscriptions = 200
	// answerBytes is about how long an answer gets.
	answerBytes = store.AnswerMax / 4
)

func (b *Broker) answerSubscriptions(q *subscriptionQuestion) (a subscriptionAnswer) {
	size := 0
	for _, c := range q.Clients {
		subscriptions := b.subscriptionsHere(store.SessionID{ClientID: c.ClientID, Incarnation: c.Incarnation}, c.After, &q.Filter, answerSubscriptions+1)
		for i := range subscriptions {
			if size += jsonSize(c.ClientID, subscriptions[i].TopicFilter); i == answerSubscriptions || size > answerBytes && i > 0 {
				subscriptions = subscriptions[:i]
				a.Cut = append(a.Cut, c.ClientID)
				break
			}
		}
		a.Subscriptions = append(a.Subscriptions, subscriptions...)
		if a.Answered++; size > answerBytes {
			break
		}
	}
	return a
}

// subscriptionsHere returns up to limit subscriptions behind a filter of a session that
// this process knows: each durable one, and those of its own clients.
func (b *Broker) subscriptionsHere(id store.SessionID, after string, f *SubscriptionFilter, limit int) (list []SubscriptionStatus) {
	s := b.registry.known(id)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	filters := slices.Clone(s.mu.filters.all)
	s.mu.Unlock()
	filters = slices.DeleteFunc(filters, func(topicFilter string) bool { return topicFilter <= after || !f.matches(topicFilter) })
	slices.Sort(filters)
	for _, topicFilter := range filters {
		if len(list) == limit {
			break
		}
		o, ok := b.subscriptions.Options(topicFilter, s)
		if !ok { // it has just ended
			continue
		}
		list = append(list, SubscriptionStatus{
			ClientID: id.ClientID, TopicFilter: topicFilter, QoS: o.QoS, NoLocal: o.NoLocal, RetainAsPublished: o.RetainAsPublished,
			RetainHandling: o.RetainHandling, SubscriptionIdentifier: o.SubscriptionIdentifier,
		})
	}
	return list
}

var errAnswer = errors.New("its answer can't be read, it may be of another version")

// decodeAnswer reads what an instance answered.
func decodeAnswer(data []byte, answer any) error {
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	return nil
}
