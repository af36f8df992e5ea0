package webhooks

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net"
	"strings"
	"unicode/utf8"

	"loopmq/codec"
)

// emqxNames are the events that EMQX calls otherwise, or has no more exact word for.
var emqxNames = map[string]string{
	"message.published":  "message.publish",
	"will.published":     "message.publish",
	"session.taken_over": "session.takenover",
	"client.auth_failed": "client.connack",
}

// emqxReasons are EMQX's words for why a client is gone or was refused. For others it has names like ours.
var emqxReasons = map[codec.ReasonCode]string{
	codec.Success:          "normal",
	codec.SessionTakenOver: "takenover",
	codec.KeepAliveTimeout: "keepalive_timeout",
	codec.NotAuthorized:    "not_authorized",
}

// appendEMQX appends an event as a rule of EMQX hands it to an HTTP server.
func (e *Endpoint) appendEMQX(b []byte, r *record) []byte {
	name := r.kind
	if n, ok := emqxNames[name]; ok {
		name = n
	}
	if r.kind == "message.dropped" && r.clientID != "" {
		name = "delivery.dropped"
	}
	v := map[string]any{"event": name, "node": r.node, "timestamp": r.at.UnixMilli()}
	put := func(name, value string) {
		if value != "" {
			v[name] = value
		}
	}
	if r.clientID != "" || r.username != "" {
		v["clientid"], v["username"] = r.clientID, orNull(r.username)
	}
	if r.isMessage() {
		e.emqxMessage(v, r)
		put("from_clientid", r.publisher)
		if host, _, err := net.SplitHostPort(r.remoteAddr); err == nil {
			v["peerhost"] = host
		}
	} else {
		put("peername", r.remoteAddr)
		put("topic", r.topicFilter)
	}
	if r.version != 0 && !r.isMessage() {
		v["proto_name"], v["proto_ver"] = protocolName(r.version), int(r.version)
	}
	put("reason", r.reason)
	switch r.kind {
	case kindConnected:
		v["keepalive"], v["clean_start"], v["connected_at"] = r.keepAlive, r.has(flagCleanStart), r.at.UnixMilli()
	case "client.disconnected":
		v["reason"], v["disconnected_at"] = emqxReason(r), r.at.UnixMilli()
	case "client.auth_failed":
		v["reason_code"] = emqxReason(r)
		delete(v, "reason")
	case kindSubscribed:
		v["qos"] = r.options & 3
	}
	text, _ := json.Marshal(v) // strings, numbers and booleans can't fail
	return append(b, text...)
}

func emqxReason(r *record) string {
	if s, ok := emqxReasons[r.reasonCode]; ok {
		return s
	}
	return strings.ReplaceAll(strings.ToLower(r.reasonCode.String()), " ", "_")
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func protocolName(v codec.Version) string {
	if v == codec.V31 {
		return "MQIsdp"
	}
	return "MQTT"
}

// emqxMessage puts what is said of a message into v.
func (e *Endpoint) emqxMessage(v map[string]any, r *record) {
	v["id"] = strings.ToUpper(hex.EncodeToString(r.id[:]))
	v["topic"], v["qos"] = string(r.topicName), r.qos
	v["flags"] = map[string]bool{"retain": r.has(flagRetain), "dup": false}
	v["publish_received_at"] = r.at.UnixMilli()
	v["pub_props"] = emqxProperties(r)
	switch text := utf8.Valid(r.payload); {
	case e.Payload == PayloadNone || r.payload == nil:
	case e.Payload == PayloadJSON && text && json.Valid(r.payload):
		v["payload"] = json.RawMessage(r.payload)
	case e.Payload != PayloadBase64 && text:
		v["payload"] = string(r.payload)
	default:
		v["payload"], v["payload_encoding"] = base64.StdEncoding.EncodeToString(r.payload), "base64"
	}
}

// emqxProperties are the properties of a message by EMQX's names.
func emqxProperties(r *record) map[string]any {
	v := map[string]any{}
	var p codec.Properties
	if codec.DecodeForward(r.properties, &p) != nil {
		return v
	}
	if r.expiry != 0 {
		v["Message-Expiry-Interval"] = r.expiry
	}
	if p.Has(codec.PropPayloadFormatIndicator) {
		v["Payload-Format-Indicator"] = p.PayloadFormatIndicator
	}
	if p.Has(codec.PropContentType) {
		v["Content-Type"] = string(p.ContentType)
	}
	if p.Has(codec.PropResponseTopic) {
		v["Response-Topic"] = string(p.ResponseTopic)
	}
	if p.Has(codec.PropCorrelationData) {
		v["Correlation-Data"] = correlation(p.CorrelationData)
	}
	if len(p.UserProperties) > 0 {
		last, pairs := map[string]string{}, []map[string]string{}
		for _, u := range p.UserProperties {
			last[string(u.Key)] = string(u.Value)
			pairs = append(pairs, map[string]string{"key": string(u.Key), "value": string(u.Value)})
		}
		v["User-Property"], v["User-Property-Pairs"] = last, pairs
	}
	return v
}

// correlation is text if it can be, as with EMQX, else base64.
func correlation(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return base64.StdEncoding.EncodeToString(b)
}
