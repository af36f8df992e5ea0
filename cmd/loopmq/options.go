package main

import (
	"slices"
	"strings"
	"time"

	"loopmq"
	"loopmq/config"
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

// drainOf returns what a configuration says of the end.
func drainOf(d *config.Drain) loopmq.DrainOptions {
	return loopmq.DrainOptions{Wait: d.Wait, Rate: d.Rate, ServerReference: d.ServerReference}
}

// listenerOf returns what a configuration says of a listener.
func listenerOf(_ *config.Config, l *config.Listener) loopmq.Listener {
	listener := loopmq.Listener{Name: l.Name, Address: l.Address}
	if path, isUnix := strings.CutPrefix(l.Address, "unix:"); isUnix {
		listener.Network, listener.Address = "unix", path
	}
	return listener
}
