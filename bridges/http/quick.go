package httpbridge

import (
	"unicode/utf8"

	"loopmq"
)

// quickMessage reads a message in the form that most have: topic, payload, qos and
// retain, once each, and no escapes in strings. It is a tenth of the cost of decoding any
// JSON. ok is false for all else, also for what is wrong: that is for decodeMessage to
// tell.
func quickMessage(text []byte, to *loopmq.Message) (ok bool) {
	*to = loopmq.Message{}
	if !utf8.Valid(text) {
		return false
	}
	q := quick{rest: text}
	var seen [4]bool
	if !q.next('{') {
		return false
	}
	for {
		name, isString := q.text()
		if !isString || !q.next(':') {
			return false
		}
		var field int
		var value []byte
		switch string(name) {
		case "topic":
			value, ok = q.text()
			to.TopicName = string(value)
		case "payload":
			field = 1
			to.Payload, ok = q.text()
		case "qos":
			field = 2
			value = q.word()
			ok = len(value) == 1 && value[0] >= '0' && value[0] <= '2'
			if ok {
				to.QoS = value[0] - '0'
			}
		case "retain":
			field = 3
			value = q.word()
			to.Retain = string(value) == "true"
			ok = to.Retain || string(value) == "false"
		default:
			return false
		}
		if !ok || seen[field] {
			return false
		}
		seen[field] = true
		if !q.next(',') {
			break
		}
	}
	return q.next('}') && q.end() && to.TopicName != "" && seen[1]
}

// quick reads tokens of JSON.
type quick struct{ rest []byte }

func (q *quick) space() {
	for len(q.rest) > 0 && (q.rest[0] == ' ' || q.rest[0] == '\n' || q.rest[0] == '\r' || q.rest[0] == '\t') {
		q.rest = q.rest[1:]
	}
}

// next takes a character, if it comes next.
func (q *quick) next(c byte) bool {
	q.space()
	if len(q.rest) == 0 || q.rest[0] != c {
		return false
	}
	q.rest = q.rest[1:]
	return true
}

// text takes a string without escapes.
func (q *quick) text() (s []byte, ok bool) {
	if !q.next('"') {
		return nil, false
	}
	for i, c := range q.rest {
		switch {
		case c == '"':
			s, q.rest = q.rest[:i:i], q.rest[i+1:]
			return s, true
		case c == '\\' || c < ' ':
			return nil, false
		}
	}
	return nil, false
}

// word takes letters and digits.
func (q *quick) word() (w []byte) {
	q.space()
	i := 0
	for i < len(q.rest) && (q.rest[i] >= 'a' && q.rest[i] <= 'z' || q.rest[i] >= '0' && q.rest[i] <= '9') {
		i++
	}
	w, q.rest = q.rest[:i], q.rest[i:]
	return w
}

// end reports whether nothing follows.
func (q *quick) end() bool {
	q.space()
	return len(q.rest) == 0
}
