package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"loopmq"
	"loopmq/auth"
	coapbridge "loopmq/bridges/coap"
	httpbridge "loopmq/bridges/http"
	"loopmq/config"
	"loopmq/rate"
	"loopmq/store"
)

// optionsOf returns what a configuration says of the Broker.
func optionsOf(c *config.Config) loopmq.Options {
	return loopmq.Options{
		Engine:                     c.Engine,
		Loops:                      c.Loops,
		NodeID:                     c.NodeID,
		SharedSubscriptionStrategy: loopmq.SharedSubscriptionStrategy(slices.Index(config.Strategies, c.MQTT.SharedSubscriptionStrategy)),
		CheckPayloadFormat:         c.MQTT.CheckPayloadFormat,
		ReasonStrings:              c.MQTT.ReasonStrings,
		ResponseInformation:        c.MQTT.ResponseInformation,
		SysInterval:                c.MQTT.SysInterval,
		CheckRetainSource:          c.MQTT.CheckRetainSource,
		UpgradeOutgoingQoS:         c.MQTT.UpgradeOutgoingQoS,
		Settings:                   settingsOf(&c.Settings, &c.Settings),
		ConnectTimeout:             c.Limits.ConnectTimeout,
		Limits:                     limitsOf(&c.Limits),
		Drain:                      drainOf(&c.Drain),
	}
}

func limitsOf(l *config.Limits) loopmq.Limits {
	policy := store.DropNewest
	if l.QueuePolicy == config.DropOldest {
		policy = store.DropOldest
	}
	return loopmq.Limits{
		Connections:           l.Connections,
		ConnectionRate:        rate.Limit{PerSecond: l.ConnectionRate, Burst: l.ConnectionBurst},
		Connects:              l.Connects,
		Client:                trafficOf(&l.Client),
		Address:               quotaOf(&l.Address),
		Node:                  trafficOf(&l.Node),
		TotalSubscriptions:    l.TotalSubscriptions,
		PacketSize:            l.PacketSize,
		ReceiveMaximum:        l.ReceiveMaximum,
		TopicAliasMaximum:     l.TopicAliasMaximum,
		Inflight:              l.Inflight,
		QueueMessages:         l.QueueMessages,
		QueueBytes:            l.QueueBytes,
		QueuePolicy:           policy,
		OutputBytes:           l.OutputBytes,
		KeepAlive:             uint16(l.KeepAlive / time.Second),
		SessionExpiryInterval: uint32(l.SessionExpiryInterval / time.Second),
		Subscriptions:         l.Subscriptions,
		RetainedMessages:      l.RetainedMessages,
		RetainedBytes:         l.RetainedBytes,
		TopicLevels:           l.TopicLevels,
		MailboxMessages:       l.MailboxMessages,
	}
}

func trafficOf(t *config.Traffic) loopmq.Traffic {
	policy := loopmq.SlowDown
	if t.Policy == config.Disconnect {
		policy = loopmq.DisconnectSender
	}
	return loopmq.Traffic{
		MessageRate: rate.Limit{PerSecond: t.MessageRate, Burst: t.MessageBurst},
		ByteRate:    rate.Limit{PerSecond: t.ByteRate, Burst: t.ByteBurst},
		Policy:      policy,
	}
}

func quotaOf(q *config.Quota) loopmq.Quota {
	return loopmq.Quota{
		Connections:    q.Connections,
		ConnectionRate: rate.Limit{PerSecond: q.ConnectionRate, Burst: q.ConnectionBurst},
		Traffic:        trafficOf(&q.Traffic),
	}
}

// drainOf returns what a configuration says of the end.
func drainOf(d *config.Drain) loopmq.DrainOptions {
	return loopmq.DrainOptions{Wait: d.Wait, Rate: d.Rate, ServerReference: d.ServerReference}
}

// settingsOf returns what clients may do: of one listener what its section says, and
// where it says nothing what holds for all.
func settingsOf(of, all *config.Settings) loopmq.Settings {
	qos := pick(of.MaximumQoS, all.MaximumQoS, 2)
	if qos == 0 {
		qos = -1
	}
	return loopmq.Settings{
		MaximumQoS:          qos,
		RetainUnavailable:   !pick(of.RetainAvailable, all.RetainAvailable, true),
		QueueQoS0:           pick(of.QueueQoS0, all.QueueQoS0, false),
		RefuseEmptyClientID: !pick(of.AllowEmptyClientID, all.AllowEmptyClientID, true),
		AutoIDPrefix:        pick(of.AutoIDPrefix, all.AutoIDPrefix, ""),
		UsernameAsClientID:  pick(of.UsernameAsClientID, all.UsernameAsClientID, false),
		MountPoint:          pick(of.MountPoint, all.MountPoint, ""),
		PayloadSize:         pick(of.PayloadSize, all.PayloadSize, 0),
		InflightBytes:       pick(of.InflightBytes, all.InflightBytes, 0),
		Limits: limitsOf(&config.Limits{
			PacketSize:            pick(of.PacketSize, nil, 0),
			ReceiveMaximum:        pick(of.ReceiveMaximum, nil, 0),
			TopicAliasMaximum:     pick(of.TopicAliasMaximum, nil, 0),
			Inflight:              pick(of.Inflight, nil, 0),
			QueueMessages:         pick(of.QueueMessages, nil, 0),
			QueueBytes:            pick(of.QueueBytes, nil, 0),
			QueuePolicy:           pick(of.QueuePolicy, nil, ""),
			KeepAlive:             pick(of.KeepAlive, nil, 0),
			SessionExpiryInterval: pick(of.SessionExpiryInterval, nil, 0),
			Subscriptions:         pick(of.Subscriptions, nil, 0),
		}),
	}
}

func pick[T any](of, all *T, otherwise T) T {
	switch {
	case of != nil:
		return *of
	case all != nil:
		return *all
	}
	return otherwise
}

// listenersOf returns what the broker listens with. Those that are off are empty.
func listenersOf(c *config.Config, who *identity) ([]loopmq.Listener, error) {
	listeners := make([]loopmq.Listener, len(c.Listeners))
	var wrong []error
	for i := range c.Listeners {
		if c.Listeners[i].Address == off {
			continue
		}
		var err error
		if listeners[i], err = listenerOf(c, &c.Listeners[i], fmt.Sprintf("listeners[%d]", i), who); err != nil {
			wrong = append(wrong, err)
		}
	}
	return listeners, errors.Join(wrong...)
}

// httpOf returns what the HTTP listener listens with; nil: it is off.
func httpOf(c *config.Config, who *identity) (*httpbridge.Options, error) {
	h := &c.HTTP
	if h.Address == off {
		return nil, nil
	}
	l, err := listenerOf(c, &h.Listener, "http", who)
	return &httpbridge.Options{
		Settings: l.Settings, TLS: l.TLS, ProxyProtocol: h.ProxyProtocol, Forwarders: h.Forwarders, Origins: h.Origins, Hosts: h.Hosts,
		Connections: h.Connections, Requests: h.Requests, HeaderBytes: h.HeaderSize, BodyBytes: h.BodySize, BodiesBytes: h.BodiesSize,
		BulkMessages: h.BulkMessages, Timeout: h.Timeout, IdempotencyWindow: h.IdempotencyWindow, Identities: h.Identities, IdentityTTL: h.IdentityTTL,
		Streams: httpbridge.StreamOptions{
			Max: h.Streams.Max, PerUser: h.Streams.PerUser, PerAddress: h.Streams.PerAddress, Window: h.Streams.Window, BufferBytes: h.Streams.Buffer,
			WriteTimeout: h.Streams.WriteTimeout, Heartbeat: h.Streams.Heartbeat, Retry: h.Streams.Retry,
		},
		Replies: httpbridge.ReplyOptions{Max: h.Replies.Max, TopicPrefix: h.Replies.TopicPrefix},
	}, err
}

// coapOf returns what the CoAP listeners listen with; nil: they are off.
func coapOf(c *config.Config, who *identity) (*coapbridge.Options, error) {
	l := &c.CoAP
	if l.Address == off && (l.DTLS == nil || l.DTLS.Address == off) {
		return nil, nil
	}
	common, err := listenerOf(c, &l.Listener, "coap", who)
	o := &coapbridge.Options{
		Settings: common.Settings, Peers: l.Peers, Inactivity: l.Inactivity, Requests: l.Requests, Exchanges: l.Exchanges, BodyBytes: l.BodySize,
		BodiesBytes: l.BodiesSize, Timeout: l.Timeout, IdentityTTL: l.IdentityTTL, Connections: l.Connections, Observations: l.Observations,
		ObservationsPerPeer: l.ObservationsPerPeer, QueueMessages: l.QueueMessages, QueueBytes: l.QueueSize, AckTimeout: l.AckTimeout,
		MaxRetransmit: l.MaxRetransmit, NStart: l.NStart,
	}
	d := l.DTLS
	if d == nil || d.Address == off {
		return o, err
	}
	var wrong [3]error
	o.DTLS = &coapbridge.DTLSOptions{}
	if d.PSKFile != "" {
		var f *coapbridge.KeyFile
		if f, wrong[0] = coapbridge.OpenKeyFile(d.PSKFile); wrong[0] == nil {
			who.files = append(who.files, preparer{"coap.dtls.psk_file", f.Prepare})
			o.DTLS.Keys = f.Key
		} else {
			wrong[0] = fmt.Errorf("coap.dtls.psk_file: %w", wrong[0])
		}
	}
	if d.TLS != nil {
		o.DTLS.TLS, wrong[1] = who.tls("coap.dtls.tls", "coap", d.TLS)
	}
	o.DTLS.Authenticator, wrong[2] = who.handshakes(auth.CertificateField(d.Username))
	return o, errors.Join(err, wrong[0], wrong[1], wrong[2])
}

// listenerOf returns what a configuration says of the listener at a key. The files
// that it names are who's to read again.
func listenerOf(c *config.Config, said *config.Listener, at string, who *identity) (l loopmq.Listener, err error) {
	settings := settingsOf(&said.Settings, &c.Settings)
	methods := "authentication"
	if len(said.Authentication) > 0 {
		methods = at + ".authentication"
	}
	var wrong [3]error
	settings.Authenticator, wrong[0] = who.authenticator(methods, c.Methods(said), c.Anonymous(said))
	rules, from, byDefault := c.Authorization, "authorization", c.AllowByDefault
	if len(said.Authorization) > 0 {
		rules, from = said.Authorization, at+".authorization"
	}
	if said.AllowByDefault != nil {
		byDefault = *said.AllowByDefault
	}
	settings.Authorizer, wrong[1] = who.authorizer(from, rules, byDefault)
	l = loopmq.Listener{
		Name: said.Name, Network: said.Network, Address: said.Address, ProxyProtocol: said.ProxyProtocol, Limits: quotaOf(&said.Limits), Settings: &settings,
	}
	if path, isUnix := strings.CutPrefix(said.Address, "unix:"); isUnix {
		l.Network, l.Address = "unix", path
	}
	if said.Mode != nil {
		l.Mode = fs.FileMode(*said.Mode)
	}
	if w := &said.WebSocket; said.Protocol == config.ProtocolWebSocket {
		l.WebSocket = &loopmq.WebSocket{Path: w.Path, Origins: w.Origins, Forwarders: w.Forwarders}
	}
	if said.TLS != nil {
		l.TLS, wrong[2] = who.tls(at+".tls", said.Name, said.TLS)
	}
	return l, errors.Join(wrong[:]...)
}
