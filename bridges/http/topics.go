package httpbridge

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"loopmq"
)

// Headers with properties of a message, both ways. Text in them is percent-encoded
// UTF-8; a User Property is name=value, and several are separated by commas. The
// Content Type is that of HTTP, or where HTTP can't have it, in a header of its own.
const (
	headerFormat      = "Mqtt-Payload-Format-Indicator"
	headerExpiry      = "Mqtt-Message-Expiry-Interval"
	headerContentType = "Mqtt-Content-Type"
	headerResponse    = "Mqtt-Response-Topic"
	headerCorrelation = "Mqtt-Correlation-Data" // base64
	headerUser        = "Mqtt-User-Property"
	headerQoS         = "Mqtt-Qos"
)

// publishTopic is POST /topics/{topic}: the body is the payload.
func (b *Bridge) publishTopic(c *call) error {
	m := loopmq.Message{TopicName: c.r.PathValue("topic")}
	if err := readQuery(c.r, &m, "qos", "retain"); err != nil {
		return err
	}
	if err := readProperties(c.r.Header, &m); err != nil {
		return err
	}
	body, done, err := b.readBody(c)
	defer done()
	if err != nil {
		return err
	}
	m.Payload = body
	p, err := b.publishOne(c, &m)
	if err != nil {
		return err
	}
	p.write(c.w)
	return nil
}

// clearTopic is DELETE /topics/{topic}: the retained message goes.
func (b *Bridge) clearTopic(c *call) error {
	m := loopmq.Message{TopicName: c.r.PathValue("topic"), QoS: 1, Retain: true}
	if err := readQuery(c.r, &m, "qos"); err != nil {
		return err
	}
	if _, err := b.publishOne(c, &m); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// readTopic is GET /topics/{topic}: the retained message.
func (b *Bridge) readTopic(c *call) error {
	m, err := c.caller.Retained(c.ctx, c.r.PathValue("topic"))
	if err != nil {
		return err
	}
	writeMessage(c.w, m)
	return nil
}

// writeMessage answers with a message: its payload is the body.
func writeMessage(w http.ResponseWriter, m *loopmq.Message) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	// Anybody may have published a page with a script: it is not to run as one of ours.
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	write(w, http.StatusOK, writeProperties(h, m), m.Payload)
}

// readQuery reads the parameters of a URL, of which only those named may be there.
func readQuery(r *http.Request, m *loopmq.Message, allowed ...string) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badRequest("the query can't be read: %v", err)
	}
	for name, v := range values {
		value, ok := v[0], len(v) == 1 && slices.Contains(allowed, name)
		switch {
		case !ok:
			return badRequest("parameter %q: allowed: %s, once each", name, strings.Join(allowed, ", "))
		case name == "qos":
			if m.QoS, err = parseQoS(value, 0); err != nil {
				return err
			}
		case value != "true" && value != "false":
			return badRequest("retain is %q: allowed: true, false", value)
		default:
			m.Retain = value == "true"
		}
	}
	return nil
}

// parseQoS reads a QoS, which has a default.
func parseQoS(text string, standard byte) (byte, error) {
	switch {
	case text == "":
		return standard, nil
	case len(text) == 1 && '0' <= text[0] && text[0] <= '2':
		return text[0] - '0', nil
	}
	return 0, badRequest("qos is %q: allowed: 0, 1, 2", text)
}

// readProperties reads the properties of a message that headers have.
func readProperties(h http.Header, m *loopmq.Message) (err error) {
	// The type of forms is what curl and browsers say unless they are told better.
	if t := h.Get("Content-Type"); !strings.HasPrefix(t, "application/x-www-form-urlencoded") {
		m.ContentType = t
	}
	for name, values := range h {
		if !strings.HasPrefix(name, "Mqtt-") || name == headerClientID {
			continue
		}
		if len(values) > 1 && name != headerUser {
			return badRequest("header %s is there more than once", name)
		}
		value := values[0]
		switch name {
		case headerFormat:
			if value != "0" && value != "1" {
				return badRequest("header %s is %q: allowed: 0, 1", name, value)
			}
			m.PayloadFormatIndicator = value[0] - '0'
		case headerExpiry:
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil || n == 0 {
				return badRequest("header %s is %q: allowed: 1 to 4294967295, in seconds", name, value)
			}
			m.MessageExpiryInterval = uint32(n)
		case headerContentType:
			m.ContentType, err = headerText(name, value)
		case headerResponse:
			m.ResponseTopic, err = headerText(name, value)
		case headerCorrelation:
			if m.CorrelationData, err = base64.StdEncoding.DecodeString(value); err != nil {
				return badRequest("header %s is not base64", name)
			}
		case headerUser:
			m.UserProperties, err = readUserProperties(values)
		default:
			return badRequest("header %s is not known: allowed: %s", name, strings.Join([]string{
				headerFormat, headerExpiry, headerContentType, headerResponse, headerCorrelation, headerUser, headerClientID,
			}, ", "))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readUserProperties(lines []string) (list []loopmq.UserProperty, err error) {
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ",") {
			name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
			if !ok {
				return nil, badRequest("header %s is %q: allowed: name=value", headerUser, pair)
			}
			var u loopmq.UserProperty
			if u.Key, err = headerText(headerUser, name); err != nil {
				return nil, err
			}
			if u.Value, err = headerText(headerUser, value); err != nil {
				return nil, err
			}
			list = append(list, u)
		}
	}
	return list, nil
}

// headerText decodes percent-encoded text.
func headerText(name, value string) (string, error) {
	text, err := url.PathUnescape(value)
	if err != nil || !utf8.ValidString(text) {
		return "", badRequest("header %s is not percent-encoded UTF-8", name)
	}
	return text, nil
}

// writeProperties sets headers, and returns the Content-Type.
func writeProperties(h http.Header, m *loopmq.Message) (contentType string) {
	h.Set(headerQoS, strconv.Itoa(int(m.QoS)))
	if m.PayloadFormatIndicator != 0 {
		h.Set(headerFormat, strconv.Itoa(int(m.PayloadFormatIndicator)))
	}
	if m.MessageExpiryInterval != 0 {
		h.Set(headerExpiry, strconv.FormatUint(uint64(m.MessageExpiryInterval), 10))
	}
	if m.ResponseTopic != "" {
		h.Set(headerResponse, percentEncoded(m.ResponseTopic))
	}
	if m.CorrelationData != nil {
		h.Set(headerCorrelation, base64.StdEncoding.EncodeToString(m.CorrelationData))
	}
	for _, u := range m.UserProperties {
		h.Add(headerUser, percentEncoded(u.Key)+"="+percentEncoded(u.Value))
	}
	switch {
	case m.ContentType == "" && m.PayloadFormatIndicator == 1:
		return "text/plain; charset=utf-8"
	case m.ContentType == "":
		return "application/octet-stream"
	case !isMediaType(m.ContentType):
		h.Set(headerContentType, percentEncoded(m.ContentType))
		return "application/octet-stream"
	}
	return m.ContentType
}

// isMediaType reports whether a Content Type of MQTT, which is any text, can be one of
// HTTP.
func isMediaType(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	kind, sub, ok := strings.Cut(s, "/")
	return ok && kind != "" && sub != "" && !strings.ContainsAny(kind, ` ",;=`)
}

// percentEncoded encodes all that isn't unreserved in URLs, and not a slash.
func percentEncoded(s string) string {
	var b strings.Builder
	const hexadecimal = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~/", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hexadecimal[c>>4], hexadecimal[c&15]})
		}
	}
	return b.String()
}
