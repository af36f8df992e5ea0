package redisstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"loopmq/codec"
	"loopmq/store"
)

// errFormat: Redis holds something that this version didn't write.
var errFormat = errors.New("redisstore: a record in Redis can't be read; was it written by another version?")

// Sequences of a stream's ids begin at 0 in a generation, Seq of an entry's Number
// at 1. Generation 0 is that of the entry that a stream was created with.
func numberOf(id store.Number) store.Number {
	if id.Generation == 0 {
		return store.Number{}
	}
	id.Seq++
	return id
}

// idOf is the reverse. A Number that no entry has, with Seq 0, becomes the last id of
// its generation and comes back from that as it was.
func idOf(n store.Number) string {
	n.Seq--
	return streamID(n)
}

// parseNumber reads a stream id as a Number.
func parseNumber(s string) (store.Number, error) {
	id, err := parseStreamID(s)
	return numberOf(id), err
}

// millis is a time as the scripts and sorted sets have it: milliseconds, 0 for the
// zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMilli(n)
}

// Fields of variable length are written as length:bytes, in decimal: so scripts
// can write them too.
func appendField[T string | []byte](b []byte, field T) []byte {
	b = strconv.AppendInt(b, int64(len(field)), 10)
	b = append(b, ':')
	return append(b, field...)
}

// fields reads what appendField wrote. After the first field that is not there
// all are empty, and bad is set.
type fields struct {
	s   string
	bad bool
}

func (f *fields) next() string {
	i := strings.IndexByte(f.s, ':')
	if i < 0 {
		f.bad, f.s = true, ""
		return ""
	}
	n, err := strconv.Atoi(f.s[:i])
	if err != nil || n < 0 || n > len(f.s)-i-1 {
		f.bad, f.s = true, ""
		return ""
	}
	field := f.s[i+1 : i+1+n]
	f.s = f.s[i+1+n:]
	return field
}

func (f *fields) err(what string) error {
	if f.bad {
		return fmt.Errorf("%w: %s", errFormat, what)
	}
	return nil
}

// A message begins with a byte of flags, the lengths of its topic (2 bytes), its
// publisher (2) and its properties (4), and, if it expires, that time (8). The
// scripts know the first byte, and where the length of the publisher is.
const (
	messageVersion  = 1 << 4
	messageExpires  = 1 << 3
	messageRetain   = 1 << 2
	messageHeader   = 9
	messageMaxField = 1<<16 - 1
)

func appendMessage(b []byte, m *store.Message) []byte {
	flags := messageVersion | m.QoS&3
	if m.Retain {
		flags |= messageRetain
	}
	if !m.Expiry.IsZero() {
		flags |= messageExpires
	}
	publisher := m.Publisher()
	publisher = publisher[:min(len(publisher), messageMaxField)]
	b = append(b, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.TopicName)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(publisher)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Properties)))
	if !m.Expiry.IsZero() {
		b = binary.BigEndian.AppendUint64(b, uint64(millis(m.Expiry)))
	}
	b = append(b, m.TopicName...)
	b = append(b, publisher...)
	b = append(b, m.Properties...)
	return append(b, m.Payload...)
}

// encodedSize is the length of what appendMessage appends.
func encodedSize(m *store.Message) int {
	return messageHeader + 8 + m.Size() + len(m.PublisherID) + 1 + len(m.PublisherName)
}

func decodeMessage(s string) (*store.Message, error) {
	if len(s) < messageHeader || s[0]&0xF0 != messageVersion {
		return nil, fmt.Errorf("%w: message", errFormat)
	}
	b := []byte(s)
	m := &store.Message{QoS: b[0] & 3, Retain: b[0]&messageRetain != 0}
	topic, publisher := int(binary.BigEndian.Uint16(b[1:])), int(binary.BigEndian.Uint16(b[3:]))
	properties := int(binary.BigEndian.Uint32(b[5:]))
	expires := b[0]&messageExpires != 0
	b = b[messageHeader:]
	if expires {
		if len(b) < 8 {
			return nil, fmt.Errorf("%w: message", errFormat)
		}
		m.Expiry = fromMillis(int64(binary.BigEndian.Uint64(b)))
		b = b[8:]
	}
	if topic+publisher+properties > len(b) {
		return nil, fmt.Errorf("%w: message", errFormat)
	}
	m.TopicName, b = b[:topic:topic], b[topic:]
	m.SetPublisher(string(b[:publisher]))
	b = b[publisher:]
	m.Properties, m.Payload = b[:properties:properties], b[properties:]
	return m, nil
}

// delivery is what an entry has besides the message. The first byte is the QoS as
// a digit, 4 more with RETAIN. That is all of most; else there follow the
// Subscription Identifiers, ShareName and TopicFilter.
const deliveryRetain = 4

func appendDelivery(b []byte, qos byte, retain bool, identifiers []uint32, shareName, topicFilter string) []byte {
	first := '0' + qos
	if retain {
		first += deliveryRetain
	}
	b = append(b, first)
	if len(identifiers) == 0 && shareName == "" && topicFilter == "" {
		return b
	}
	b = appendField(b, appendIdentifiers(nil, identifiers))
	b = appendField(b, shareName)
	return appendField(b, topicFilter)
}

func appendIdentifiers(b []byte, identifiers []uint32) []byte {
	for _, id := range identifiers {
		b = binary.AppendUvarint(b, uint64(id))
	}
	return b
}

// decodeDelivery sets what belongs to the delivery in e.
func decodeDelivery(e *store.Entry, s string) error {
	if s == "" || s[0] < '0' || s[0] > '7' {
		return fmt.Errorf("%w: delivery", errFormat)
	}
	e.QoS, e.Retain = (s[0]-'0')&3, s[0] >= '0'+deliveryRetain
	if len(s) == 1 {
		return nil
	}
	f := fields{s: s[1:]}
	identifiers := []byte(f.next())
	for len(identifiers) > 0 {
		id, n := binary.Uvarint(identifiers)
		if n <= 0 {
			f.bad = true
			break
		}
		e.SubscriptionIdentifiers = append(e.SubscriptionIdentifiers, uint32(id))
		identifiers = identifiers[n:]
	}
	e.ShareName, e.TopicFilter = f.next(), f.next()
	return f.err("delivery")
}

// decodeEntry returns the entry of a queue.
func decodeEntry(raw streamEntry) (store.Entry, error) {
	e := store.Entry{Number: numberOf(raw.id)}
	if len(raw.fields) != 2 {
		return e, fmt.Errorf("%w: entry", errFormat)
	}
	if err := decodeDelivery(&e, raw.fields[0]); err != nil {
		return e, err
	}
	var err error
	e.Message, err = decodeMessage(raw.fields[1])
	return e, err
}

// decodeSubscriptions takes the pairs of a hash of subscriptions.
func decodeSubscriptions(pairs []any) ([]store.Subscription, error) {
	subscriptions := make([]store.Subscription, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		var s store.Subscription
		s.TopicFilter, _ = pairs[i].(string)
		options, _ := pairs[i+1].(string)
		if _, ok := cutSubscription(options, &s); !ok {
			return nil, fmt.Errorf("%w: subscription", errFormat)
		}
		subscriptions = append(subscriptions, s)
	}
	slices.SortFunc(subscriptions, func(a, b store.Subscription) int { return strings.Compare(a.TopicFilter, b.TopicFilter) })
	return subscriptions, nil
}

// A Will begins with its delay in decimal, which the scripts read.
func encodeWill(w *store.Will) []byte {
	b := strconv.AppendUint(nil, uint64(w.DelayInterval), 10)
	b = append(b, ' ')
	b = binary.AppendVarint(b, w.ExpirySeconds)
	return appendMessage(b, &w.Message)
}

func decodeWill(clientID string, epoch uint64, due time.Time, s string) (store.Will, error) {
	w := store.Will{ClientID: clientID, Epoch: epoch, Due: due}
	delay, rest, _ := strings.Cut(s, " ")
	interval, err := strconv.ParseUint(delay, 10, 32)
	expiry, n := binary.Varint([]byte(rest[:min(len(rest), binary.MaxVarintLen64)]))
	if err != nil || n <= 0 {
		return w, fmt.Errorf("%w: Will", errFormat)
	}
	m, err := decodeMessage(rest[n:])
	if err != nil {
		return w, err
	}
	w.DelayInterval, w.ExpirySeconds, w.Message = uint32(interval), expiry, *m
	return w, nil
}

// Limits are four numbers for the scripts, and nothing for none.
func encodeLimits(l store.Limits) string {
	if l == (store.Limits{}) {
		return ""
	}
	return fmt.Sprintf("%d %d %d %d", l.Messages, l.Bytes, l.Policy, l.Protected)
}

func decodeLimits(s string) (l store.Limits, err error) {
	if s == "" {
		return l, nil
	}
	if _, err := fmt.Sscanf(s, "%d %d %d %d", &l.Messages, &l.Bytes, &l.Policy, &l.Protected); err != nil {
		return l, fmt.Errorf("%w: limits", errFormat)
	}
	return l, nil
}

// News are one field of an inbox's entry per batch, which the scripts compose:
// for each message 'm' and the message, and then whom it is for: 'r', or 'g' with
// ShareName and TopicFilter, or 'h' with the queue's tag, the delivery and the
// number. Instead of all that, 'o' says that there was no room.
const (
	newsMessage  = 'm'
	newsRouted   = 'r'
	newsGroup    = 'g'
	newsHint     = 'h'
	newsOverflow = 'o'
)

// appendGroup appends what names a group in News.
func appendGroup(b []byte, shareName, topicFilter string) []byte {
	b = append(b, newsGroup)
	b = appendField(b, shareName)
	return appendField(b, topicFilter)
}

// decodeNews takes the value of an inbox's entry. With overflow, news were lost.
func decodeNews(s string) (news []store.News, overflow bool, err error) {
	f := fields{s: s}
	for f.s != "" && !f.bad {
		what := f.s[0]
		f.s = f.s[1:]
		if len(news) == 0 && what != newsMessage && what != newsOverflow {
			f.bad = true
			break
		}
		switch what {
		case newsOverflow:
			overflow = true
		case newsMessage:
			var n store.News
			if message := f.next(); message != "" {
				if n.Message, err = decodeMessage(message); err != nil {
					return nil, overflow, err
				}
			}
			news = append(news, n)
		case newsRouted:
			news[len(news)-1].Routed = true
		case newsGroup:
			n := &news[len(news)-1]
			n.Groups = append(n.Groups, store.GroupID{ShareName: f.next(), TopicFilter: f.next()})
		case newsHint:
			h, err := decodeHint(f.next(), f.next(), f.next())
			if err != nil {
				return nil, overflow, err
			}
			n := &news[len(news)-1]
			n.Queued = append(n.Queued, h)
		default:
			f.bad = true
		}
	}
	return news, overflow, f.err("news")
}

var unescaper = strings.NewReplacer("%25", "%", "%7B", "{", "%7D", "}")

func decodeHint(queueTag, delivery, number string) (store.Hint, error) {
	var (
		h store.Hint
		e store.Entry
	)
	i := strings.LastIndex(queueTag, "}:")
	if i < 1 || queueTag[0] != '{' {
		return h, fmt.Errorf("%w: hint", errFormat)
	}
	incarnation, err := strconv.ParseUint(queueTag[i+2:], 10, 64)
	if err != nil {
		return h, fmt.Errorf("%w: hint", errFormat)
	}
	if err := decodeDelivery(&e, delivery); err != nil {
		return h, err
	}
	h = store.Hint{
		Session: store.SessionID{ClientID: unescaper.Replace(queueTag[1:i]), Incarnation: incarnation},
		QoS:     e.QoS, Retain: e.Retain, SubscriptionIdentifiers: e.SubscriptionIdentifiers,
		ShareName: e.ShareName, TopicFilter: e.TopicFilter,
	}
	h.Number, err = parseNumber(number)
	return h, err
}

// A session is a hash; sessionFields are those of it that make a store.Session,
// in the order of decodeSession.
var sessionFields = []string{"inc", "ep", "own", "dur", "sei", "due", "lim", "con", "dis"}

// decodeSession takes the values of sessionFields, the last two of which need not be
// there. It returns store.ErrGone if there are none.
func decodeSession(clientID string, values []any) (store.Session, error) {
	var v [9]string
	if len(values) < len(v)-2 {
		return store.Session{}, fmt.Errorf("%w: session", errFormat)
	}
	if values[0] == nil {
		return store.Session{}, store.ErrGone
	}
	for i := range min(len(v), len(values)) {
		v[i], _ = values[i].(string)
	}
	incarnation, err1 := strconv.ParseUint(v[0], 10, 64)
	epoch, err2 := strconv.ParseUint(v[1], 10, 64)
	interval, err3 := strconv.ParseUint(v[4], 10, 32)
	due, err4 := strconv.ParseInt(v[5], 10, 64)
	limits, err5 := decodeLimits(v[6])
	connection, err6 := decodeConnection(v[7])
	disconnected, err7 := decodeDisconnected(v[8])
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		return store.Session{}, fmt.Errorf("%w: session: %w", errFormat, err)
	}
	return store.Session{
		ID: store.SessionID{ClientID: clientID, Incarnation: incarnation}, Epoch: epoch, Owner: v[2],
		Durable: v[3] == "1", SessionExpiryInterval: uint32(interval), Due: fromMillis(due), Limits: limits,
		Connection: connection, Disconnected: disconnected,
	}, nil
}

// A connection is version, Keep Alive, 1 for Clean Start and ms, and then three
// strings, each behind its length.
func encodeConnection(c *store.Connection) []byte {
	b := fmt.Appendf(nil, "%d %d %s %d ", c.ProtocolVersion, c.KeepAlive, flag(c.CleanStart), millis(c.Since))
	for _, s := range []string{c.Username, c.Address, c.Listener} {
		b = appendField(b, s)
	}
	return b
}

func decodeConnection(s string) (c store.Connection, err error) {
	if s == "" {
		return c, nil
	}
	head := strings.SplitN(s, " ", 5)
	if len(head) < 5 {
		return c, fmt.Errorf("%w: connection", errFormat)
	}
	version, err1 := strconv.ParseUint(head[0], 10, 8)
	keepAlive, err2 := strconv.ParseUint(head[1], 10, 16)
	since, err3 := strconv.ParseInt(head[3], 10, 64)
	f := fields{s: head[4]}
	c = store.Connection{
		Username: f.next(), Address: f.next(), Listener: f.next(), ProtocolVersion: codec.Version(version), KeepAlive: uint16(keepAlive),
		CleanStart: head[2] == "1", Since: fromMillis(since),
	}
	return c, errors.Join(err1, err2, err3, f.err("connection"))
}

// How a connection has ended is ms, a space, and the reason.
func encodeDisconnected(d store.Disconnected) string {
	return strconv.FormatInt(millis(d.At), 10) + " " + d.Reason
}

func decodeDisconnected(s string) (*store.Disconnected, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // there was none
	}
	at, reason, _ := strings.Cut(s, " ")
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%w: end of a connection", errFormat)
	}
	if ms == 0 {
		return nil, nil //nolint:nilnil // the same
	}
	return &store.Disconnected{At: fromMillis(ms), Reason: reason}, nil
}
