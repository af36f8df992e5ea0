package httpbridge

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

// message is a message as JSON.
type message struct {
	Topic           string          `json:"topic"`
	Payload         json.RawMessage `json:"payload"`
	PayloadEncoding string          `json:"payload_encoding"` // plain, base64, json
	QoS             byte            `json:"qos"`
	Retain          bool            `json:"retain"`
	ClientID        string          `json:"clientid"` // of EMQX, which ignores it
	Properties      properties      `json:"properties"`
}

// properties are those of a PUBLISH that a server passes on.
type properties struct {
	PayloadFormatIndicator  byte           `json:"payload_format_indicator"`
	MessageExpiryInterval   *uint32        `json:"message_expiry_interval"` // seconds
	ContentType             string         `json:"content_type"`
	ResponseTopic           string         `json:"response_topic"`
	CorrelationData         *string        `json:"correlation_data"`
	CorrelationDataEncoding string         `json:"correlation_data_encoding"` // plain, base64
	UserProperties          userProperties `json:"user_properties"`
}

// userProperties are an object, whose values are strings or lists of strings, or a list
// of [name, value]. Their order is that of the text.
type userProperties []loopmq.UserProperty

// UnmarshalJSON reads either form.
func (u *userProperties) UnmarshalJSON(text []byte) error {
	if text[0] == '[' {
		var pairs [][2]string
		if err := json.Unmarshal(text, &pairs); err != nil {
			return errUserProperties
		}
		for _, p := range pairs {
			*u = append(*u, loopmq.UserProperty{Key: p[0], Value: p[1]})
		}
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errUserProperties
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return errUserProperties
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return errUserProperties
		}
		var values []string
		if value[0] == '[' {
			err = json.Unmarshal(value, &values)
		} else {
			values = make([]string, 1)
			err = json.Unmarshal(value, &values[0])
		}
		if err != nil || value[0] == 'n' {
			return errUserProperties
		}
		for _, v := range values {
			*u = append(*u, loopmq.UserProperty{Key: name.(string), Value: v})
		}
	}
	return nil
}

var errUserProperties = errors.New("user_properties: allowed: an object whose values are strings or lists of strings, or a list of [name, value]")

// translate returns the message that is meant.
func (m *message) translate(to *loopmq.Message) error {
	if m.Topic == "" {
		return errors.New("topic is missing")
	}
	if len(m.Payload) == 0 || m.PayloadEncoding != "json" && string(m.Payload) == "null" {
		return errors.New(`payload is missing: "" is an empty one`)
	}
	p := &m.Properties
	*to = loopmq.Message{
		TopicName: m.Topic, QoS: m.QoS, Retain: m.Retain, PayloadFormatIndicator: p.PayloadFormatIndicator,
		ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, UserProperties: p.UserProperties,
	}
	var err error
	if m.PayloadEncoding == "json" {
		to.Payload = m.Payload
	} else {
		var text string
		if json.Unmarshal(m.Payload, &text) != nil {
			return errors.New(`payload: allowed: a string, or any value with "payload_encoding":"json"`)
		}
		if to.Payload, err = decodeText(text, m.PayloadEncoding); err != nil {
			return fmt.Errorf("payload: %w", err)
		}
	}
	if p.CorrelationData != nil {
		if to.CorrelationData, err = decodeText(*p.CorrelationData, p.CorrelationDataEncoding); err != nil {
			return fmt.Errorf("correlation_data: %w", err)
		}
	}
	if p.MessageExpiryInterval != nil {
		if to.MessageExpiryInterval = *p.MessageExpiryInterval; to.MessageExpiryInterval == 0 {
			return errors.New("message_expiry_interval: allowed: 1 or more; without it the message doesn't expire")
		}
	}
	return nil
}

func decodeText(text, encoding string) ([]byte, error) {
	switch encoding {
	case "", "plain":
		return []byte(text), nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, errors.New("it is not base64")
		}
		return b, nil
	}
	return nil, fmt.Errorf("encoding is %q: allowed: plain, base64", encoding)
}

// publish is POST /publish.
func (b *Bridge) publish(c *call) error {
	p, err := b.publishBody(c)
	if err != nil {
		return err
	}
	p.write(c.w)
	return nil
}

// publishBody publishes the message that the body of a request is.
func (b *Bridge) publishBody(c *call) (published, error) {
	body, done, err := b.readBody(c, "application/json")
	defer done()
	if err != nil {
		return published{}, err
	}
	var m loopmq.Message
	if err := decodeMessage(body, &m); err != nil {
		return published{}, err
	}
	return b.publishOne(c, &m)
}

// decodeMessage reads a message that is JSON.
func decodeMessage(text []byte, to *loopmq.Message) error {
	if quickMessage(text, to) {
		return nil
	}
	var m message
	if err := decodeJSON(text, &m); err != nil {
		return err
	}
	if err := checkMembers(text); err != nil {
		return badRequest("%v", err)
	}
	if err := m.translate(to); err != nil {
		return badRequest("%v", err)
	}
	return nil
}

func decodeJSON(text []byte, v any) error {
	if !utf8.Valid(text) { // which decoding would make something else of
		return badRequest("the body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badRequest("the body is not the JSON that is expected: %v", err)
	}
	if d.InputOffset() < int64(len(bytes.TrimRight(text, " \t\r\n"))) {
		return badRequest("there is something behind the JSON")
	}
	return nil
}

// checkMembers returns an error if a message has a field twice, or in capitals, which
// decoding takes for the same: what stands in front of a broker may have looked at
// another one than is used. text is the JSON of an object.
func checkMembers(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return err // null, say
	}
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		switch {
		case seen[name]:
			return fmt.Errorf("the field %q comes twice", name)
		case strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' }):
			return fmt.Errorf("the field %q is not known: names are in lower case", name)
		case name == "properties":
			if err := checkMembers(value); err != nil {
				return fmt.Errorf("properties: %w", err)
			}
		}
		seen[name] = true
	}
	return nil
}

// published is the answer to a message that was published.
type published struct {
	Status     string `json:"status"` // ok, no_matching_subscribers
	ID         string `json:"id"`
	Matched    int    `json:"matched"`
	ReasonCode int    `json:"reason_code,omitempty"`
	Message    string `json:"message,omitempty"`
}

const (
	noSubscribers    = "no_matching_subscribers"
	nobodySubscribed = "nobody is subscribed to the topic"
)

func publishedAs(id string, p loopmq.Published) published {
	if p.Matched == 0 {
		return published{noSubscribers, id, 0, int(codec.NoMatchingSubscribers), nobodySubscribed}
	}
	return published{Status: "ok", ID: id, Matched: p.Matched}
}

// status is 202 if nobody is subscribed.
func (p *published) status() int {
	if p.Matched == 0 {
		return http.StatusAccepted
	}
	return http.StatusOK
}

func (p *published) write(w http.ResponseWriter) {
	write(w, p.status(), "application/json", append(p.append(make([]byte, 0, 192)), '\n'))
}

// append appends the JSON of p, as Marshal does, but without reflection. Status and ID need
// no escapes.
func (p *published) append(b []byte) []byte {
	b = append(append(append(append(b, `{"status":"`...), p.Status...), `","id":"`...), p.ID...)
	b = strconv.AppendInt(append(b, `","matched":`...), int64(p.Matched), 10)
	if p.ReasonCode != 0 {
		b = strconv.AppendInt(append(b, `,"reason_code":`...), int64(p.ReasonCode), 10)
		b = append(b, `,"message":`...)
		if p.Message == nobodySubscribed {
			b = append(append(append(b, '"'), nobodySubscribed...), '"')
		} else {
			text, _ := json.Marshal(p.Message) // It can't fail on a string.
			b = append(b, text...)
		}
	}
	return append(b, '}')
}

// publishOne publishes one message, under an Idempotency-Key if there is one.
func (b *Bridge) publishOne(c *call, m *loopmq.Message) (published, error) {
	key, err := keyOf(c.r)
	if err != nil {
		return published{}, err
	}
	if key != "" {
		notes, err := b.publishOnce(c, key, []loopmq.Message{*m})
		var none *loopmq.NonePublishedError
		if errors.As(err, &none) {
			err = none.Errors[0]
		}
		if err != nil {
			return published{}, err
		}
		return publishedAs(notes[0].id, loopmq.Published{Matched: notes[0].matched}), nil
	}
	p, err := c.caller.Publish(c.ctx, m)
	if err != nil {
		return published{}, err
	}
	return publishedAs(newID(), p), nil
}

var (
	idPrefix = rand.Uint64()
	idSerial atomic.Uint64
)

// newID returns an id that no other message has.
func newID() string {
	var b [16]byte
	serial := idSerial.Add(1)
	for i := range 8 {
		b[i], b[8+i] = byte(idPrefix>>(56-8*i)), byte(serial>>(56-8*i))
	}
	return hex.EncodeToString(b[:])
}

func errBodyTooLarge(limit int64) error {
	return faulty(http.StatusRequestEntityTooLarge, metrics.HTTPTooLarge, "the body has more than %d bytes, which http.body_size allows", limit)
}

func isOfType(contentType string, types []string) bool {
	for _, t := range types {
		if contentType == t {
			return true
		}
	}
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	for _, want := range types {
		if t == want {
			return true
		}
	}
	return false
}
