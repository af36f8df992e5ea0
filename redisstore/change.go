package redisstore

import (
	"encoding/binary"
	"errors"
	"strconv"

	"loopmq/store"
)

// errChange: a record of the feed that this version can't read.
var errChange = errors.New("malformed record in the feed")

// A Change is one entry of the feed, with one field `c`:
//
//	kind (1 byte), ClientID, incarnation, instance, epoch, and then
//	  for each of Subscriptions: Topic Filter, subscription (5 bytes)
//	  for each of TopicFilters: Topic Filter
//	  for a Ban: its name, and what encodeBan writes, unless it is no more
//
// A string is its length in two bytes and its bytes; incarnation and epoch are
// decimal strings, empty for 0. lua/change.lua writes the same, see there.
const changeField = "c"

// encodeChange returns the record of c.
func encodeChange(c *store.Change) []byte {
	b := append(make([]byte, 0, 128), byte(c.Kind))
	b = appendString(b, c.Session.ClientID)
	b = appendString(b, decimal(c.Session.Incarnation))
	b = appendString(b, c.Instance)
	b = appendString(b, decimal(c.Epoch))
	for i := range c.Subscriptions {
		b = appendString(b, c.Subscriptions[i].TopicFilter)
		b = appendSubscription(b, &c.Subscriptions[i])
	}
	for _, filter := range c.TopicFilters {
		b = appendString(b, filter)
	}
	return b
}

// decodeChange reads what encodeChange or Lua wrote.
func decodeChange(record string) (store.Change, error) {
	if record == "" {
		return store.Change{}, errChange
	}
	c := store.Change{Kind: store.ChangeKind(record[0])}
	var (
		incarnation, epoch string
		ok                 bool
	)
	rest := record[1:]
	for _, field := range []*string{&c.Session.ClientID, &incarnation, &c.Instance, &epoch} {
		if *field, rest, ok = cutString(rest); !ok {
			return c, errChange
		}
	}
	c.Session.Incarnation, c.Epoch = parseDecimal(incarnation), parseDecimal(epoch)
	for rest != "" {
		var filter string
		if filter, rest, ok = cutString(rest); !ok {
			return c, errChange
		}
		if c.Kind != store.ChangeSubscribed {
			c.TopicFilters = append(c.TopicFilters, filter)
			continue
		}
		s := store.Subscription{TopicFilter: filter}
		if rest, ok = cutSubscription(rest, &s); !ok {
			return c, errChange
		}
		c.Subscriptions = append(c.Subscriptions, s)
	}
	if c.Kind == store.ChangeBanned || c.Kind == store.ChangeUnbanned {
		return banned(c)
	}
	return c, nil
}

// banned makes the strings of a record what they are of a Ban.
func banned(c store.Change) (store.Change, error) {
	texts := c.TopicFilters
	c.TopicFilters = nil
	if len(texts) == 0 {
		return c, errChange
	}
	if c.Kind == store.ChangeUnbanned {
		c.Ban.Named(texts[0])
		return c, nil
	}
	var err error
	c.Ban, err = decodeBan(texts[0], texts[len(texts)-1])
	return c, err
}

// Bits of the first byte of a subscription, those of the Subscription Options
// [MQTT-3.8.3.1]. The Subscription Identifier follows in four bytes, 0: none.
const (
	subscriptionQoS               = 0x03
	subscriptionNoLocal           = 0x04
	subscriptionRetainAsPublished = 0x08
	subscriptionRetainHandling    = 4 // shift
	subscriptionSize              = 5
)

// appendSubscription appends a subscription without its Topic Filter, as the hash of
// a session's subscriptions holds it.
func appendSubscription(b []byte, s *store.Subscription) []byte {
	options := s.Options.QoS | s.Options.RetainHandling<<subscriptionRetainHandling
	if s.Options.NoLocal {
		options |= subscriptionNoLocal
	}
	if s.Options.RetainAsPublished {
		options |= subscriptionRetainAsPublished
	}
	return binary.BigEndian.AppendUint32(append(b, options), s.SubscriptionIdentifier)
}

// cutSubscription reads what appendSubscription wrote and returns what is behind.
func cutSubscription(b string, s *store.Subscription) (rest string, ok bool) {
	if len(b) < subscriptionSize {
		return b, false
	}
	s.Options.QoS = b[0] & subscriptionQoS
	s.Options.NoLocal = b[0]&subscriptionNoLocal != 0
	s.Options.RetainAsPublished = b[0]&subscriptionRetainAsPublished != 0
	s.Options.RetainHandling = b[0] >> subscriptionRetainHandling & 3
	s.SubscriptionIdentifier = uint32(b[1])<<24 | uint32(b[2])<<16 | uint32(b[3])<<8 | uint32(b[4])
	return b[subscriptionSize:], true
}

// appendString appends a string of up to 65535 bytes, as MQTT's are.
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// cutString reads what appendString wrote and returns what is behind.
func cutString(b string) (s, rest string, ok bool) {
	if len(b) < 2 {
		return "", b, false
	}
	n := 2 + int(b[0])<<8 + int(b[1])
	if len(b) < n {
		return "", b, false
	}
	return b[2:n], b[n:], true
}

func decimal(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

func parseDecimal(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}
