package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"loopmq"
	"loopmq/auth"
	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/config"
)

// opcuaServerOf returns what the OPC UA server serves with; nil: it is off.
func opcuaServerOf(c *config.Config, who *identity) (*opcuaserver.Options, error) {
	s := &c.OPCUA.Server
	if s.Address == off {
		return nil, nil
	}
	const at = "opcua.server"
	anonymous := len(c.Methods(&s.Listener)) == 0
	if said := c.Anonymous(&s.Listener); said != nil {
		anonymous = *said
	}
	common, err := listenerOf(c, &s.Listener, at, who)
	o := &opcuaserver.Options{
		Settings: common.Settings, Filters: s.Topics, Username: s.Username, WriteQoS: byte(s.WriteQoS), WriteRetain: s.WriteRetain,
		None: s.Clear(), Basic256Sha256: s.Secure(), AllowSign: s.AllowSign, Anonymous: anonymous, PlainPassword: s.AllowPlainPassword,
		ApplicationURI: s.ApplicationURI, ApplicationName: s.ApplicationName, Version: version,
		Topics: s.MaxTopics, ValueBytes: s.ValueSize, ValuesBytes: s.ValuesSize, Connections: s.Connections, Sessions: s.Sessions, Items: s.Items,
		Subscriptions: s.Subscriptions, Queue: s.Queue, MessageBytes: s.MessageSize, MemoryBytes: int64(s.Memory), SessionTimeout: s.SessionTimeout,
		PublishingInterval: s.PublishingInterval,
	}
	var wrong [3]error
	o.Authorizer, wrong[0] = who.authorizer("authorization", c.Authorization, c.AllowByDefault)
	o.Authenticator, wrong[1] = who.handshakes(auth.CertificateField(s.CertificateUser))
	wrong[2] = opcuaServerFiles(o, s)
	if err = errors.Join(err, wrong[0], wrong[1], wrong[2]); err != nil {
		return nil, err
	}
	return o, o.Check()
}

// opcuaServerFiles reads the certificates and the key.
func opcuaServerFiles(o *opcuaserver.Options, s *config.OPCUAServer) error {
	var wrong []error
	read := func(key, path string) []byte {
		text, err := os.ReadFile(path)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("opcua.server.%s: %w", key, err))
		}
		return text
	}
	certificates := func(key string, paths ...string) (all []*x509.Certificate) {
		for _, path := range paths {
			text := read(key, path)
			if text == nil {
				continue
			}
			some, err := certificatesOf(text)
			if err != nil {
				wrong = append(wrong, fmt.Errorf("opcua.server.%s: %s: %w", key, path, err))
			}
			all = append(all, some...)
		}
		return all
	}
	if s.Certificate != "" {
		if own := certificates("certificate", s.Certificate); len(own) > 0 {
			o.Certificate = own[0]
		}
		if text := read("key", s.Key); text != nil {
			var err error
			if o.Key, err = rsaKeyOf(text); err != nil {
				wrong = append(wrong, fmt.Errorf("opcua.server.key: %s: %w", s.Key, err))
			}
		}
	}
	o.Trusted, o.TrustedUsers = certificates("trusted", s.Trusted...), certificates("trusted_users", s.TrustedUsers...)
	return errors.Join(wrong...)
}

// startOPCUAServer has OPC UA clients served, and returns where, as attributes of a log line.
func (r *reloader) startOPCUAServer(c *config.Config, o *opcuaserver.Options, b *loopmq.Broker, options *loopmq.Options) (where []any, err error) {
	o.Broker, o.Metrics, o.Logger = b, options.Metrics, options.Logger
	s, err := opcuaserver.New(*o)
	if err != nil {
		return nil, err
	}
	addr, err := s.Start(c.OPCUA.Server.Address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", named(c, "opcua.server.address", "opcua.server.address"), err)
	}
	r.opcuaServer = s
	return []any{"opcua", addr.String()}, nil
}

// stopOPCUAServer ends it.
func (r *reloader) stopOPCUAServer(grace time.Duration) {
	if r.opcuaServer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(grace, opcuaGrace))
	defer cancel()
	r.opcuaServer.Close(ctx)
}

// beOPCUAServer is the process that the broker starts for OPC UA clients. It ends with the broker, not by the signals that
// a terminal or a supervisor sends both.
func beOPCUAServer(stderr io.Writer) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := opcuaserver.Serve(); err != nil {
		fmt.Fprintf(stderr, "loopmq: %s\n", oneLine(err))
		return exitFailed
	}
	return exitOK
}
