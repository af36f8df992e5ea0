package webhooks

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"loopmq/codec"
)

// The media types of CloudEvents.
const (
	mediaJSON   = "application/json"
	mediaBytes  = "application/octet-stream"
	mediaText   = "text/plain; charset=utf-8"
	mediaEvent  = "application/cloudevents+json; charset=utf-8"
	mediaEvents = "application/cloudevents-batch+json; charset=utf-8"
)

// typePrefix is in front of an event's kind in the attribute type.
const typePrefix = "io.loopmq."

// attribute is one of a CloudEvent: string, int, bool, or []byte.
type attribute struct {
	name  string
	value any
}

// attributes are those of an event, in the order in which they are written. The ones beyond the specification's own are
// extensions, whose names may be of small letters and digits only.
func (e *Endpoint) attributes(r *record) []attribute {
	all := []attribute{
		{"specversion", "1.0"},
		{"id", hex.EncodeToString(r.id[:])},
		{"source", e.Source + "/" + escapePath(r.node)},
		{"type", typePrefix + r.kind},
	}
	add := func(name string, value any) { all = append(all, attribute{name, value}) }
	text := func(name, value string) {
		if value != "" {
			add(name, value)
		}
	}
	text("subject", r.subject())
	add("time", r.at.UTC().Format(time.RFC3339Nano))
	text("clientid", r.clientID)
	text("username", r.username)
	if !r.isMessage() {
		return all
	}
	text("publisher", r.publisher)
	add("qos", int(r.qos))
	add("retain", r.has(flagRetain))
	if r.expiry != 0 {
		text("messageexpiry", fmt.Sprint(r.expiry)) // An Integer of CloudEvents has 31 bits.
	}
	if r.packetID != 0 {
		add("packetid", int(r.packetID))
	}
	text("reason", r.reason)
	var p codec.Properties
	if codec.DecodeForward(r.properties, &p) != nil {
		return all
	}
	text("contenttype", string(p.ContentType))
	text("responsetopic", string(p.ResponseTopic))
	if p.Has(codec.PropCorrelationData) {
		add("correlationdata", p.CorrelationData)
	}
	if len(p.UserProperties) > 0 {
		text("userproperties", userProperties(&p))
	}
	return all
}

// subject is what an event is about: a topic, a client, or the node.
func (r *record) subject() string {
	switch {
	case r.isMessage():
		return string(r.topicName)
	case r.clientID != "":
		return r.clientID
	}
	return r.node
}

// userProperties are names and values in their order, as JSON: attributes have no lists.
func userProperties(p *codec.Properties) string {
	pairs := make([][2]string, 0, len(p.UserProperties))
	for _, u := range p.UserProperties {
		pairs = append(pairs, [2]string{string(u.Key), string(u.Value)})
	}
	text, _ := json.Marshal(pairs) // strings can't fail
	return string(text)
}

// data is the data of a CloudEvent.
type data struct {
	contentType string
	bytes       []byte // as they are, of the content type
	embedded    []byte // the member "data" of structured mode, as JSON; nil: data_base64 has bytes
}

// data returns that of an event: of a message its payload, of others what there is to say besides attributes. nil: none.
func (e *Endpoint) data(r *record) *data {
	if !r.isMessage() {
		text := r.details()
		return &data{mediaJSON, text, text}
	}
	if e.Payload == PayloadNone || r.payload == nil {
		return nil
	}
	var p codec.Properties
	_ = codec.DecodeForward(r.properties, &p) // Nothing is known of its type then.
	said := string(p.ContentType)
	if !isMediaType(said) {
		said = ""
	}
	switch {
	case e.Payload == PayloadJSON && utf8.Valid(r.payload) && json.Valid(r.payload):
		if !isJSON(said) {
			said = mediaJSON
		}
		return &data{said, r.payload, r.payload}
	case e.Payload == PayloadText && utf8.Valid(r.payload):
		if said == "" || isJSON(said) { // Text under a type of JSON would be read as a JSON string.
			said = mediaText
		}
		return &data{said, r.payload, quote(r.payload)}
	case said == "" || e.Payload == PayloadJSON && isJSON(said):
		said = mediaBytes
	}
	return &data{said, r.payload, nil}
}

// isMediaType is whether a device's Content Type may stand in a header. What is a CloudEvent is for us to say.
func isMediaType(s string) bool {
	t, _, err := mime.ParseMediaType(s)
	return err == nil && strings.Contains(t, "/") && !strings.HasPrefix(t, "application/cloudevents") && !strings.ContainsFunc(s, func(c rune) bool {
		return c < ' ' || c > '~'
	})
}

func isJSON(mediaType string) bool {
	t, _, err := mime.ParseMediaType(mediaType)
	return err == nil && (t == mediaJSON || t == "text/json" || strings.HasSuffix(t, "+json"))
}

// quote returns text as a JSON string. It has to be UTF-8.
func quote(text []byte) []byte {
	b, _ := json.Marshal(string(text)) // strings can't fail
	return b
}

// details are what is said of an event that isn't about a message.
func (r *record) details() []byte {
	d := struct {
		Node            string `json:"node"`
		ClientID        string `json:"client_id,omitempty"`
		Username        string `json:"username,omitempty"`
		RemoteAddr      string `json:"remote_addr,omitempty"`
		Listener        string `json:"listener,omitempty"`
		ProtocolVersion string `json:"protocol_version,omitempty"`
		KeepAlive       *int   `json:"keep_alive,omitempty"`
		CleanStart      *bool  `json:"clean_start,omitempty"`
		SessionPresent  *bool  `json:"session_present,omitempty"`
		ReasonCode      *int   `json:"reason_code,omitempty"`
		Reason          string `json:"reason,omitempty"`

		TopicFilter       string `json:"topic_filter,omitempty"`
		QoS               *int   `json:"qos,omitempty"`
		NoLocal           *bool  `json:"no_local,omitempty"`
		RetainAsPublished *bool  `json:"retain_as_published,omitempty"`
		RetainHandling    *int   `json:"retain_handling,omitempty"`
	}{
		Node: r.node, ClientID: r.clientID, Username: r.username, RemoteAddr: r.remoteAddr, Listener: r.listener,
		Reason: r.reason, TopicFilter: r.topicFilter,
	}
	if r.version != 0 {
		d.ProtocolVersion = versionName(r.version)
	}
	switch r.kind {
	case kindConnected:
		d.KeepAlive, d.CleanStart, d.SessionPresent = new(int(r.keepAlive)), new(r.has(flagCleanStart)), new(r.has(flagSessionPresent))
	case kindSubscribed:
		d.QoS, d.NoLocal, d.RetainAsPublished = new(int(r.options&3)), new(r.options&4 != 0), new(r.options&8 != 0)
		d.RetainHandling = new(int(r.options >> 4 & 3))
	}
	if r.has(flagReasonCode) {
		d.ReasonCode = new(int(r.reasonCode))
	}
	b, _ := json.Marshal(&d) // strings and numbers can't fail
	return b
}

// The kinds of which there is more to say than of others.
const (
	kindConnected  = "client.connected"
	kindSubscribed = "session.subscribed"
)

func versionName(v codec.Version) string {
	switch v {
	case codec.V31:
		return "3.1"
	case codec.V311:
		return "3.1.1"
	}
	return "5.0"
}

// appendEvent appends an event in structured mode.
func (e *Endpoint) appendEvent(b []byte, r *record) []byte {
	b = append(b, '{')
	for i, a := range e.attributes(r) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), a.name...), `":`...)
		value, _ := json.Marshal(a.value) // strings, numbers, booleans and bytes can't fail
		b = append(b, value...)
	}
	if d := e.data(r); d != nil {
		b = append(append(b, `,"datacontenttype":`...), quote([]byte(d.contentType))...)
		if d.embedded != nil {
			b = append(append(b, `,"data":`...), d.embedded...)
		} else {
			b = base64.StdEncoding.AppendEncode(append(b, `,"data_base64":"`...), d.bytes)
			b = append(b, '"')
		}
	}
	return append(b, '}')
}

// binary returns the body of an event in binary mode, and puts its attributes into h.
func (e *Endpoint) binary(h http.Header, r *record) []byte {
	for _, a := range e.attributes(r) {
		value := ""
		switch v := a.value.(type) {
		case string:
			value = escapeHeader(v)
		case []byte:
			value = base64.StdEncoding.EncodeToString(v)
		default:
			value = fmt.Sprint(v)
		}
		h.Set("ce-"+a.name, value)
	}
	d := e.data(r)
	if d == nil {
		return nil
	}
	h.Set("Content-Type", d.contentType)
	return d.bytes
}

const hexDigits = "0123456789ABCDEF"

// escapeHeader writes a value as the HTTP binding of CloudEvents has it: percent-encoded where it isn't printable ASCII.
func escapeHeader(s string) string {
	return escape(s, func(c byte) bool { return c <= ' ' || c > '~' || c == '"' || c == '%' })
}

// escapePath writes the name of a node as a segment of a URI.
func escapePath(s string) string {
	return escape(s, func(c byte) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-._~:@", rune(c))
	})
}

func escape(s string, unsafe func(byte) bool) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if unsafe(c) {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
