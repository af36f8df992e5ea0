package httpbridge

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"loopmq"
	"loopmq/codec"
)

// event is a message for a stream.
type event struct {
	message *loopmq.MessageView
	id      loopmq.DeliveryID
	dup     bool
}

// eventOverhead is about what an event costs beside the bytes of its message.
const eventOverhead = 200

// size is what an event counts against the bound of a stream's buffer. The bytes of
// its message may be shared with other streams, but need not be.
func (e *event) size() int {
	return len(e.message.TopicName) + len(e.message.Payload) + eventOverhead
}

// eventFormat is how events are written.
type eventFormat struct {
	payload     payloadForm
	payloadOnly bool // data is the payload alone
	ids         bool // of messages that wait for their acknowledgement
}

// payloadForm is how a payload becomes a value of JSON.
type payloadForm uint8

const (
	payloadAuto   payloadForm = iota // plain if it is UTF-8, else base64
	payloadPlain                     // a string, whose wrong bytes become U+FFFD
	payloadBase64                    // a string
	payloadJSON                      // the value that it is, else as payloadAuto
)

var payloadForms = map[string]payloadForm{"": payloadAuto, "auto": payloadAuto, "plain": payloadPlain, "base64": payloadBase64, "json": payloadJSON}

// append appends e as an event of a text/event-stream. now is the clock that its Expiry
// is on.
func (e *event) append(b []byte, f *eventFormat, now time.Time) []byte {
	if f.ids && !e.id.IsZero() {
		b = append(e.id.Append(append(b, "id: "...)), '\n')
	}
	if f.payloadOnly {
		return append(appendLines(append(b, "event: message\n"...), e.message.Payload), '\n')
	}
	b = append(b, "event: message\ndata: "...)
	return append(e.appendJSON(b, f.payload, now), "\n\n"...)
}

// appendLines appends text as data of an event, a field for each line.
func appendLines(b, text []byte) []byte {
	if !utf8.Valid(text) {
		text = base64.StdEncoding.AppendEncode(nil, text)
	}
	for {
		b = append(b, "data: "...)
		i := bytes.IndexAny(text, "\r\n")
		if i < 0 {
			return append(append(b, text...), '\n')
		}
		b = append(append(b, text[:i]...), '\n')
		if text[i] == '\r' && i+1 < len(text) && text[i+1] == '\n' {
			i++
		}
		text = text[i+1:]
	}
}

// appendJSON appends e as a JSON object without line ends. It has the names of what
// POST /publish takes.
func (e *event) appendJSON(b []byte, form payloadForm, now time.Time) []byte {
	m := e.message
	b = appendString(append(b, `{"topic":`...), m.TopicName)
	b = append(b, `,"payload":`...)
	b, encoding := appendPayload(b, m.Payload, form)
	b = append(append(append(b, `,"payload_encoding":"`...), encoding...), `","qos":`...)
	b = strconv.AppendUint(b, uint64(m.QoS), 10)
	b = strconv.AppendBool(append(b, `,"retain":`...), m.Retain)
	if e.dup {
		b = append(b, `,"dup":true`...)
	}
	var p codec.Properties
	if m.Properties(&p) == nil {
		b = appendProperties(b, &p, m.Expiry, now)
	}
	return append(b, '}')
}

func appendPayload(b, payload []byte, form payloadForm) (_ []byte, encoding string) {
	text := utf8.Valid(payload)
	if form == payloadJSON && text {
		if out := bytes.NewBuffer(b); json.Compact(out, payload) == nil {
			return out.Bytes(), "json"
		}
	}
	if form == payloadBase64 || form != payloadPlain && !text {
		return append(base64.StdEncoding.AppendEncode(append(b, '"'), payload), '"'), "base64"
	}
	return appendString(b, payload), "plain"
}

// appendProperties appends the properties that there are.
func appendProperties(b []byte, p *codec.Properties, expiry, now time.Time) []byte {
	const begin = `,"properties":{`
	at := len(b)
	name := func(s string) {
		if len(b) == at {
			b = append(b, begin...)
		} else {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), s...), '"', ':')
	}
	if p.Has(codec.PropPayloadFormatIndicator) {
		name("payload_format_indicator")
		b = strconv.AppendUint(b, uint64(p.PayloadFormatIndicator), 10)
	}
	if !expiry.IsZero() {
		name("message_expiry_interval")
		b = strconv.AppendInt(b, int64(max(0, expiry.Sub(now)+time.Second-1)/time.Second), 10)
	}
	if p.Has(codec.PropContentType) {
		name("content_type")
		b = appendString(b, p.ContentType)
	}
	if p.Has(codec.PropResponseTopic) {
		name("response_topic")
		b = appendString(b, p.ResponseTopic)
	}
	if p.Has(codec.PropCorrelationData) {
		var encoding string
		name("correlation_data")
		b, encoding = appendPayload(b, p.CorrelationData, payloadAuto)
		name("correlation_data_encoding")
		b = append(append(append(b, '"'), encoding...), '"')
	}
	if len(p.UserProperties) > 0 {
		name("user_properties")
		b = appendUserProperties(b, p.UserProperties)
	}
	if len(b) == at {
		return b
	}
	return append(b, '}')
}

// appendUserProperties appends a list of [name, value], in their order: a name may
// come more than once.
func appendUserProperties(b []byte, all []codec.UserProperty) []byte {
	b = append(b, '[')
	for i, u := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, '['), u.Key)
		b = append(appendString(append(b, ','), u.Value), ']')
	}
	return append(b, ']')
}

// appendString appends text as a JSON string. What isn't UTF-8 becomes U+FFFD.
func appendString(b, text []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(text); {
		ch := text[i]
		switch {
		case ch == '"' || ch == '\\':
			b = append(append(b, text[from:i]...), '\\', ch)
		case ch < 0x20:
			b = append(append(b, text[from:i]...), '\\', 'u', '0', '0', hex[ch>>4], hex[ch&15])
		case ch < utf8.RuneSelf:
			i++
			continue
		default:
			r, n := utf8.DecodeRune(text[i:])
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			b = append(append(b, text[from:i]...), "\uFFFD"...)
		}
		i++
		from = i
	}
	return append(append(b, text[from:]...), '"')
}
