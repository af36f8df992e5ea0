package coapbridge

import (
	"math"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq/metrics"
)

// request is a message that asks for something.
type request struct {
	message  coap.Message
	exchange *exchange // nil: it isn't known again
	path     []string
	query    map[string]string

	observe    *uint32
	format     *uint32 // Content-Format
	accept     *uint32
	maxAge     *uint32
	size1      *uint32
	block1     *block
	block2     *block
	etags      [][]byte
	tags       string // Request-Tags, each behind its length
	noResponse uint32 // No-Response (RFC 7967)
}

func (r *request) confirmable() bool { return r.message.Type == coap.Confirmable }

// pathMax bounds the path of a request.
const pathMax = math.MaxUint16

// numbers are the options that have one, and how many bytes it may have. All of them come
// once.
var numbers = map[coap.OptionID]int{
	coap.URIPort: 2, coap.Observe: 3, coap.ContentFormat: 2, coap.MaxAge: 4, coap.Accept: 2, coap.Block1: 3, coap.Block2: 3, coap.Size1: 4, coap.Size2: 4, coap.NoResponse: 1,
}

// parse reads the options of a request. Critical options that it doesn't know, or that
// are not as they should be, are refused; elective ones are ignored. [RFC 7252, 5.4.1]
func (r *request) parse() error {
	m := &r.message
	r.query = make(map[string]string)
	seen := make(map[coap.OptionID]bool, len(m.Options))
	pathLength := 0
	for _, o := range m.Options {
		ok := true
		if size, isNumber := numbers[o.ID]; isNumber {
			ok = len(o.Value) <= size && !seen[o.ID]
			if ok {
				ok = r.number(o.ID, uintOf(o.Value))
			}
		} else {
			switch o.ID {
			case coap.URIPath:
				r.path = append(r.path, string(o.Value))
				pathLength += len(o.Value) + 1
				ok = pathLength <= pathMax && utf8.Valid(o.Value)
			case coap.URIQuery:
				if err := r.parameter(string(o.Value)); err != nil {
					return err
				}
			case coap.URIHost:
				ok = len(o.Value) > 0 && !seen[o.ID]
			case coap.ETag:
				if len(o.Value) > 0 && len(o.Value) <= 8 && len(r.etags) < 8 {
					r.etags = append(r.etags, o.Value)
				}
			case optionRequestTag:
				r.tags += string(rune(len(o.Value))) + string(o.Value)
			case coap.ProxyURI, coap.ProxyScheme:
				return faulty(codes.ProxyingNotSupported, metrics.CoAPBadOption, "this is no proxy")
			default:
				ok = false
			}
		}
		seen[o.ID] = true
		if !ok && o.ID&1 == 1 {
			return faulty(codes.BadOption, metrics.CoAPBadOption, "option %d is not known, or not valid here", o.ID)
		}
	}
	return nil
}

// number reads an option that is one.
func (r *request) number(id coap.OptionID, n uint32) bool {
	switch id {
	case coap.Observe:
		r.observe = &n
	case coap.ContentFormat:
		r.format = &n
	case coap.MaxAge:
		r.maxAge = &n
	case coap.Accept:
		r.accept = &n
	case coap.Size1:
		r.size1 = &n
	case coap.NoResponse:
		r.noResponse = n
	case coap.Block1, coap.Block2:
		b, ok := blockOf(n)
		if !ok {
			return false
		}
		if id == coap.Block1 {
			r.block1 = &b
		} else {
			r.block2 = &b
		}
	}
	return true
}

// parameter reads a part of the query.
func (r *request) parameter(text string) error {
	name, value, _ := strings.Cut(text, "=")
	if _, twice := r.query[name]; twice || !utf8.ValidString(text) || strings.ContainsRune(text, 0) { // [MQTT-1.5.4-2]
		return badRequest("parameter %q: allowed: UTF-8 without U+0000, and once", name)
	}
	r.query[name] = value
	return nil
}

// allow returns an error if there are other parameters than those of any request, and these.
func (r *request) allow(names ...string) error {
	for name := range r.query {
		if !slices.Contains(names, name) && !slices.Contains(credentialNames, name) {
			return badRequest("parameter %q: allowed: %s", name, strings.Join(append(names, credentialNames...), ", "))
		}
	}
	return nil
}

// key tells what is asked for from what else is.
func (r *request) key() string {
	var b strings.Builder
	for _, s := range r.path {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(s))
	}
	names := make([]string, 0, len(r.query))
	for name := range r.query {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b.WriteByte('&')
		b.WriteString(url.QueryEscape(name) + "=" + url.QueryEscape(r.query[name]))
	}
	return b.String()
}

// wanted is the size of blocks that the client wants at most.
func (r *request) wanted() uint8 {
	if r.block2 != nil {
		return r.block2.szx
	}
	return szxMax
}

// silent reports whether the client doesn't want to know of such an answer.
func (r *request) silent(c codes.Code) bool {
	return r.noResponse>>(uint(c)>>5-1)&1 == 1
}

// topic returns what follows in the path as a Topic Name or Topic Filter.
func (r *request) topic(behind int) (string, error) {
	topic := strings.Join(r.path[behind:], "/")
	if topic == "" {
		return "", badRequest("the path has no topic")
	}
	return topic, nil
}

// qos returns the QoS that is asked for: of a confirmable request 1, of another 0, unless
// it is said.
func (r *request) qos() (byte, error) {
	switch q, ok := r.query["qos"]; {
	case !ok && r.confirmable():
		return 1, nil
	case !ok:
		return 0, nil
	case len(q) == 1 && '0' <= q[0] && q[0] <= '2':
		return q[0] - '0', nil
	default:
		return 0, badRequest("qos is %q: allowed: 0, 1, 2", q)
	}
}
