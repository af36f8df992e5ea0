package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"loopmq"
	opcuabridge "loopmq/bridges/opcua"
	"loopmq/config"
)

// opcuaGrace is the time that sessions get to end when an endpoint is changed or removed.
const opcuaGrace = 5 * time.Second

// opcua is the client of OPC UA servers, from the configuration to its end.
type opcua struct {
	started *config.Config // authorization is as it was then
	who     *identity
	current []opcuaEndpoint
	running *opcuabridge.Bridge // nil: not yet
}

// opcuaEndpoint is an endpoint, and what it was made of.
type opcuaEndpoint struct {
	said     config.OPCUAEndpoint
	files    map[string][]byte
	endpoint *opcuabridge.Endpoint
}

// newOPCUA returns the endpoints of a configuration.
func newOPCUA(c *config.Config, who *identity) (*opcua, error) {
	o := &opcua{started: c, who: who}
	var err error
	o.current, err = o.make(c.OPCUA.Endpoints)
	return o, err
}

// start has the endpoints served, by a running broker.
func (o *opcua) start(b *loopmq.Broker, options *loopmq.Options) error {
	authorizer, err := o.who.authorizer("authorization", o.started.Authorization, o.started.AllowByDefault)
	if err != nil {
		return fmt.Errorf("opcua: %w", err)
	}
	o.running, err = opcuabridge.New(opcuabridge.Options{
		Broker: b, Store: options.Store, Authorizer: authorizer, Username: o.started.OPCUA.Username, Endpoints: o.endpoints(), Metrics: options.Metrics, Logger: options.Logger,
	})
	if err != nil {
		return err
	}
	o.running.Start()
	return nil
}

// stop ends all endpoints.
func (o *opcua) stop(grace time.Duration) {
	if o.running == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(grace, opcuaGrace))
	defer cancel()
	o.running.Close(ctx)
}

// prepare reads the endpoints of another configuration, and their files, and returns what makes them hold.
func (o *opcua) prepare(next *config.Config) (apply func() error, err error) {
	made, err := o.make(next.OPCUA.Endpoints)
	if err != nil {
		return nil, err
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), opcuaGrace)
		defer cancel()
		o.current = made
		return o.running.Reload(ctx, o.endpoints())
	}, nil
}

func (o *opcua) endpoints() []*opcuabridge.Endpoint {
	all := make([]*opcuabridge.Endpoint, len(o.current))
	for i := range o.current {
		all[i] = o.current[i].endpoint
	}
	return all
}

// make returns endpoints, or all that is wrong with them. Those of which nothing has changed stay the same.
func (o *opcua) make(said []config.OPCUAEndpoint) ([]opcuaEndpoint, error) {
	all := make([]opcuaEndpoint, len(said))
	var wrong []error
	for i := range said {
		var err error
		if all[i], err = o.makeOne(&said[i]); err != nil {
			wrong = append(wrong, fmt.Errorf("opcua.endpoints[%d].%w", i, err))
		}
	}
	return all, errors.Join(wrong...)
}

func (o *opcua) makeOne(c *config.OPCUAEndpoint) (opcuaEndpoint, error) {
	made := opcuaEndpoint{said: *c, files: make(map[string][]byte)}
	s := &c.Security
	for _, path := range append([]string{s.Certificate, s.Key, s.PasswordFile, s.UserCertificate, s.UserKey}, s.Trusted...) {
		if path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return opcuaEndpoint{}, fmt.Errorf("security: %w", err)
		}
		made.files[path] = text
	}
	for _, former := range o.current {
		if reflect.DeepEqual(former.said, made.said) && reflect.DeepEqual(former.files, made.files) {
			return former, nil
		}
	}
	e := opcuaOf(c)
	var err error
	if e.Security, err = opcuaSecurity(s, made.files); err != nil {
		return opcuaEndpoint{}, fmt.Errorf("security.%w", err)
	}
	if err := e.SetDefaults(); err != nil {
		field, text, _ := strings.Cut(err.Error(), ": ")
		return opcuaEndpoint{}, fmt.Errorf("%s: %s", keyOf(field), text)
	}
	made.endpoint = e
	return made, nil
}

// opcuaOf returns what a configuration says of an endpoint, without its security.
func opcuaOf(c *config.OPCUAEndpoint) *opcuabridge.Endpoint {
	e := &opcuabridge.Endpoint{
		Name: c.Name, URL: c.URL, Namespaces: make(map[string]string), PublishingInterval: c.PublishingInterval, SessionTimeout: c.SessionTimeout,
		RequestTimeout: c.RequestTimeout, RetryMin: c.RetryMin, RetryMax: c.RetryMax, Rescan: c.Rescan, StatusTopic: c.StatusTopic, ResponseTopics: c.ResponseTopics,
		ItemsMax: c.MaxItems, MessageBytes: uint32(c.MessageSize),
	}
	for _, n := range c.Namespaces {
		prefix, uri, _ := strings.Cut(n, "=")
		e.Namespaces[prefix] = uri
	}
	for i := range c.Mappings {
		m := &c.Mappings[i]
		e.Mappings = append(e.Mappings, opcuabridge.Mapping{
			Node: m.Node, Path: m.Path, Tree: m.Tree, Topic: m.Topic, WriteTopic: m.WriteTopic, PublishingInterval: m.PublishingInterval,
			SamplingInterval: m.SamplingInterval, Queue: uint32(m.Queue), Deadband: m.Deadband, PercentDeadband: m.PercentDeadband, QoS: byte(m.QoS), Retain: m.Retain,
			Format: opcuabridge.Format(m.Format), Type: m.Type,
		})
	}
	for _, k := range c.Calls {
		e.Calls = append(e.Calls, opcuabridge.Call{Topic: k.Topic, Object: k.Object, Method: k.Method})
	}
	return e
}

// opcuaSecurity returns what a configuration and its files say of security.
func opcuaSecurity(c *config.OPCUASecurity, files map[string][]byte) (s opcuabridge.Security, err error) {
	s = opcuabridge.Security{
		Policy: opcuabridge.Policy(c.Policy), SignOnly: c.SignOnly, Username: c.Username, AllowPlainPassword: c.AllowPlainPassword,
		Password: strings.TrimRight(string(files[c.PasswordFile]), "\r\n"),
	}
	var wrong []error
	certificate := func(key, path string) []*x509.Certificate {
		if path == "" {
			return nil
		}
		all, err := certificatesOf(files[path])
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %s: %w", key, path, err))
			return nil
		}
		return all
	}
	key := func(key, path string) *rsa.PrivateKey {
		if path == "" {
			return nil
		}
		k, err := rsaKeyOf(files[path])
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %s: %w", key, path, err))
		}
		return k
	}
	if own := certificate("certificate", c.Certificate); own != nil {
		s.Certificate = own[0].Raw
	}
	if user := certificate("user_certificate", c.UserCertificate); user != nil {
		s.UserCertificate = user[0].Raw
	}
	s.Key, s.UserKey = key("key", c.Key), key("user_key", c.UserKey)
	for i, path := range c.Trusted {
		s.Trusted = append(s.Trusted, certificate(fmt.Sprintf("trusted[%d]", i), path)...)
	}
	return s, errors.Join(wrong...)
}

// certificatesOf reads certificates, as PEM or DER.
func certificatesOf(text []byte) (all []*x509.Certificate, err error) {
	if !bytes.Contains(text, []byte("-----BEGIN")) {
		all, err = x509.ParseCertificates(text)
	}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			cert, wrong := x509.ParseCertificate(block.Bytes)
			all, err = append(all, cert), cmp.Or(err, wrong)
		}
	}
	if err == nil && len(all) == 0 {
		err = errors.New("it has no certificate: allowed: PEM or DER")
	}
	return all, err
}

// rsaKeyOf reads an RSA key as PEM.
func rsaKeyOf(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it has no key: allowed: PEM")
	}
	if k, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return k, nil
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if r, ok := k.(*rsa.PrivateKey); ok {
		return r, nil
	}
	return nil, errors.New("allowed: an RSA key")
}
