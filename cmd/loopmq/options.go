package main

import (
	"slices"
	"strings"
	"time"

	"loopmq"
	"loopmq/config"
	"loopmq/rate"
	"loopmq/store"
)

// optionsOf returns what a configuration says of the Broker.
func optionsOf(c *config.Config) loopmq.Options {
	return loopmq.Options{
		Loops:                      c.Engine.Loops,
		NodeID:                     c.NodeID,
		SharedSubscriptionStrategy: loopmq.SharedSubscriptionStrategy(slices.Index(config.Strategies, c.MQTT.SharedSubscriptionStrategy)),
		CheckPayloadFormat:         c.MQTT.CheckPayloadFormat,
		ReasonStrings:              c.MQTT.ReasonStrings,
		ResponseInformation:        c.MQTT.ResponseInformation,
		SysInterval:                c.MQTT.SysInterval,
		ConnectTimeout:             c.Limits.ConnectTimeout,
		Limits:                     limitsOf(&c.Limits),
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

// listenerOf returns what a configuration says of a listener.
func listenerOf(_ *config.Config, l *config.Listener) loopmq.Listener {
	listener := loopmq.Listener{Name: l.Name, Address: l.Address, Limits: quotaOf(&l.Limits)}
	if path, isUnix := strings.CutPrefix(l.Address, "unix:"); isUnix {
		listener.Network, listener.Address = "unix", path
	}
	if w := &l.WebSocket; l.Protocol == config.ProtocolWebSocket {
		listener.WebSocket = &loopmq.WebSocket{Path: w.Path, Origins: w.Origins, Forwarders: w.Forwarders}
	}
	return listener
}
