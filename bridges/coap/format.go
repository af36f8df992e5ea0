package coapbridge

import (
	"mime"
	"strings"

	coap "github.com/plgd-dev/go-coap/v3/message"

	"loopmq"
)

// formats are Content-Formats beyond those that go-coap has names for, as IANA lists
// them.
var formats = map[coap.MediaType]string{
	21: "image/gif", 22: "image/jpeg", 23: "image/png", 62: "application/multipart-core", 63: "application/cbor-seq",
	111: "application/sensml+json", 113: "application/sensml+cbor", 114: "application/senml-exi", 115: "application/sensml-exi",
	310: "application/senml+xml", 311: "application/sensml+xml", 432: "application/td+json", 11050: "application/json@deflate", 11060: "application/cbor@deflate",
	20000: "text/css", 20002: "application/javascript", 30000: "image/svg+xml",
}

// octets is the Content-Format of any bytes.
const octets = uint16(42)

// contentType returns the Content Type of MQTT for a Content-Format.
func contentType(format uint32) (string, bool) {
	if format > 0xffff {
		return "", false
	}
	if text, ok := formats[coap.MediaType(format)]; ok {
		return text, true
	}
	t, err := coap.MediaTypeFromNumber(format)
	if err != nil {
		return "", false
	}
	return strings.ReplaceAll(t.String(), `"`, ""), true
}

// formatOf returns the Content-Format of a Content Type.
var formatOf = func() func(string) (uint16, bool) {
	byType := make(map[string]uint16)
	for n := range 1 << 16 {
		if text, ok := contentType(uint32(n)); ok {
			byType[text] = uint16(n)
			if name, parameters, err := mime.ParseMediaType(text); err == nil && (len(parameters) == 0 || n == 0) {
				byType[name] = uint16(n)
			}
		}
	}
	return func(contentType string) (uint16, bool) {
		n, ok := byType[strings.ToLower(strings.ReplaceAll(contentType, `"`, ""))]
		if !ok {
			if name, parameters, err := mime.ParseMediaType(contentType); err == nil && len(parameters) == 0 || err == nil && strings.EqualFold(parameters["charset"], "utf-8") {
				n, ok = byType[name]
			}
		}
		return n, ok
	}
}()

// formatOfMessage returns the Content-Format of a message, nil if it isn't known.
func formatOfMessage(contentType string, utf8 bool) *uint16 {
	var n uint16
	switch known, ok := formatOf(contentType); {
	case ok:
		n = known
	case contentType != "":
		return nil
	case !utf8:
		return nil
	}
	return &n
}

// acceptable reports whether a client that accepts one Content-Format gets what it
// understands. What has none is any bytes, or text.
func acceptable(accept *uint32, format *uint16) bool {
	switch {
	case accept == nil, format != nil && uint32(*format) == *accept:
		return true
	case format == nil:
		return *accept == uint32(octets) || *accept == uint32(coap.TextPlain)
	}
	return *accept == uint32(octets)
}

// describe has a message say what its Content-Format is.
func describe(m *loopmq.Message, format *uint32) bool {
	if format == nil {
		return true
	}
	text, ok := contentType(*format)
	if ok {
		m.ContentType = text
		if *format == uint32(coap.TextPlain) {
			m.PayloadFormatIndicator = 1
		}
	}
	return ok
}
