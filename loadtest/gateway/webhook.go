package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"loopmq/codec"
)

var (
	errEvent = errors.New("no event with a topic and a payload")
	// errAway is of who has subscribed and isn't connected: the broker has to try again.
	errAway = errors.New("the subscriber isn't there")
)

// An event is a message that a webhook told of.
type event struct {
	topicName string
	payload   []byte
	qos       byte
}

// ServeHTTP serves the broker's webhooks.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, packetBytesMax))
	if err != nil {
		g.report("webhook", err.Error())
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	events, err := parseEvents(r.Header, body)
	if err != nil {
		g.report("webhook", err.Error())
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// All or none: a request that is tried again would double those that were taken.
	to, err := g.receivers(events)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	for i, e := range events {
		for _, c := range to[i] {
			c.deliver(e)
		}
	}
	for _, receivers := range to {
		for _, c := range receivers {
			if err := c.flush(); err != nil {
				_ = c.Close()
			}
		}
	}
}

// receivers returns who gets each event: nobody, if nobody ever wanted it.
func (g *Gateway) receivers(events []event) ([][]*conn, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	all := make([][]*conn, len(events))
	for i, e := range events {
		conns, known := g.mu.exact[e.topicName]
		for filter, more := range g.mu.wildcards {
			if matches(filter, e.topicName) {
				conns, known = append(conns[:len(conns):len(conns)], more...), true
			}
		}
		if known && len(conns) == 0 {
			return nil, errAway
		}
		all[i] = conns
	}
	return all, nil
}

// deliver adds a PUBLISH to what flush sends.
func (c *conn) deliver(e event) {
	c.mu.Lock()
	if e.qos > 0 {
		c.packetID = c.packetID%65535 + 1
	}
	p := codec.Publish{TopicName: []byte(e.topicName), Payload: e.payload, QoS: e.qos, PacketID: c.packetID}
	if e.qos == 0 {
		p.PacketID = 0
	}
	c.mu.Unlock()
	c.write(p.Append(nil, c.version))
}

// parseEvents reads a request: CloudEvents in each of their modes, or what EMQX's rules send.
func parseEvents(h http.Header, body []byte) ([]event, error) {
	if subject := h.Get("Ce-Subject"); subject != "" {
		topicName, err := url.PathUnescape(subject)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errEvent, err)
		}
		qos, _ := strconv.Atoi(h.Get("Ce-Qos"))
		return []event{{topicName, body, byte(qos & 3 % 3)}}, nil
	}
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || media != "application/json" && !strings.HasPrefix(media, "application/cloudevents") {
		return nil, fmt.Errorf("%w: Content-Type %q", errEvent, h.Get("Content-Type"))
	}
	var list []jsonEvent
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '[' {
		err = json.Unmarshal(body, &list)
	} else {
		list = make([]jsonEvent, 1)
		err = json.Unmarshal(body, &list[0])
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEvent, err)
	}
	events := make([]event, len(list))
	for i := range list {
		if events[i], err = list[i].event(); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// jsonEvent is a CloudEvent, or an event of EMQX.
type jsonEvent struct {
	Subject    string          `json:"subject"`
	Topic      string          `json:"topic"`
	QoS        int             `json:"qos"`
	Data       json.RawMessage `json:"data"`
	DataBase64 *string         `json:"data_base64"`
	Payload    json.RawMessage `json:"payload"`
	Encoding   string          `json:"payload_encoding"`
}

func (j *jsonEvent) event() (event, error) {
	e := event{topicName: j.Subject + j.Topic, qos: byte(j.QoS & 3 % 3)}
	data := j.Data
	if j.Topic != "" {
		data = j.Payload
	}
	var text string
	isText := len(data) > 0 && data[0] == '"' && json.Unmarshal(data, &text) == nil
	var err error
	switch {
	case j.DataBase64 != nil:
		e.payload, err = base64.StdEncoding.DecodeString(*j.DataBase64)
	case isText && j.Topic != "" && j.Encoding == "base64":
		e.payload, err = base64.StdEncoding.DecodeString(text)
	case isText:
		e.payload = []byte(text)
	default:
		e.payload = data // JSON is its own text
	}
	if err != nil || e.topicName == "" || strings.ContainsAny(e.topicName, "+#\x00") {
		return e, errEvent
	}
	return e, nil
}

// subscribe has webhooks come to c.
func (g *Gateway) subscribe(c *conn, p *codec.Subscribe) *codec.Suback {
	g.mu.Lock()
	defer g.mu.Unlock()
	suback := &codec.Suback{PacketID: p.PacketID}
	for _, s := range p.Subscriptions {
		if g.webhook == nil || s.Invalid {
			suback.ReasonCodes = append(suback.ReasonCodes, codec.UnspecifiedError) // in 3.1.1: Failure
			continue
		}
		suback.ReasonCodes = append(suback.ReasonCodes, codec.ReasonCode(s.Options.QoS))
		filter := string(s.TopicFilter)
		table := g.table(filter)
		if !slices.Contains(table[filter], c) {
			table[filter] = append(slices.Clone(table[filter]), c) // receivers may use the old one
			c.filters = append(c.filters, filter)
		}
	}
	return suback
}

// unsubscribe ends all subscriptions of c. That there were some is kept.
func (g *Gateway) unsubscribe(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, filter := range c.filters {
		table := g.table(filter)
		table[filter] = slices.DeleteFunc(slices.Clone(table[filter]), func(o *conn) bool { return o == c })
	}
	c.filters = nil
}

func (g *Gateway) table(filter string) map[string][]*conn {
	if strings.ContainsAny(filter, "+#") {
		return g.mu.wildcards
	}
	return g.mu.exact
}

// matches says whether a Topic Filter matches a Topic Name [MQTT-4.7.1-2, -3].
func matches(filter, topicName string) bool {
	for {
		level, filterRest, more := strings.Cut(filter, "/")
		if level == "#" {
			return true
		}
		name, nameRest, moreName := strings.Cut(topicName, "/")
		if level != "+" && level != name {
			return false
		}
		if !more || !moreName {
			return more == moreName || more && filterRest == "#"
		}
		filter, topicName = filterRest, nameRest
	}
}
