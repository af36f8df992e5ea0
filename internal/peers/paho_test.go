package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"loopmq/internal/brokertest"
)

// pahoV3 is a client of paho.mqtt.golang.
type pahoV3 struct {
	inbox
	client  mqtt.Client
	conn    net.Conn
	present bool
	lost    chan error
}

func connectPahoV3(t testing.TB, addr string, o options) client {
	t.Helper()
	if o.clientID == "" {
		o.clientID = brokertest.Name()
	}
	c := &pahoV3{inbox: newInbox(t, "paho.mqtt.golang"), lost: make(chan error, 1)}
	opts := mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(o.clientID).SetProtocolVersion(4).
		SetCleanSession(!o.durable).SetAutoReconnect(false).SetKeepAlive(time.Minute).SetConnectTimeout(patience).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) { c.lost <- err }).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
			c.put(message{topic: m.Topic(), payload: m.Payload(), qos: m.Qos(), retain: m.Retained()})
		}).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			conn, err := dialPaho(addr)
			c.conn = conn
			return conn, err
		})
	if w := o.will; w != nil {
		opts.SetBinaryWill(w.topic, w.payload, w.qos, w.retain)
	}
	c.client = mqtt.NewClient(opts)
	token := c.client.Connect()
	c.done(token, "connect")
	c.present = token.(*mqtt.ConnectToken).SessionPresent()
	t.Cleanup(c.kill)
	if !c.present {
		for _, s := range o.subscribe {
			token := c.client.Subscribe(s.filter, s.qos, nil)
			c.done(token, "subscribe")
			for _, got := range token.(*mqtt.SubscribeToken).Result() { // one; its key is without $share/{ShareName}
				if got != s.qos {
					t.Fatalf("paho.mqtt.golang: subscribe to %s: got %#x, want %#x", s.filter, got, s.qos)
				}
			}
		}
	}
	return c
}

// dialPaho connects to host:port, or to the URL of a WebSocket.
func dialPaho(addr string) (net.Conn, error) {
	if strings.Contains(addr, "://") {
		return mqtt.NewWebsocket(addr, &tls.Config{InsecureSkipVerify: true}, patience, nil, nil)
	}
	return net.Dial("tcp", addr)
}

func (c *pahoV3) done(token mqtt.Token, what string) {
	c.t.Helper()
	if !token.WaitTimeout(patience) {
		c.t.Fatalf("paho.mqtt.golang: %s: not within %v", what, patience)
	}
	if err := token.Error(); err != nil {
		c.t.Fatalf("paho.mqtt.golang: %s: %v", what, err)
	}
}

func (c *pahoV3) publish(m message) {
	c.t.Helper()
	c.done(c.client.Publish(m.topic, m.qos, m.retain, m.payload), "publish")
}

func (c *pahoV3) sessionPresent() (present, known bool) { return c.present, true }

func (c *pahoV3) disconnect() { c.client.Disconnect(1000) }

func (c *pahoV3) kill() { _ = c.conn.Close() }

func (c *pahoV3) closed() byte {
	c.t.Helper()
	if err := wait(c.t, c.lost, "end of paho.mqtt.golang's connection"); err == nil {
		c.t.Fatal("paho.mqtt.golang: connection lost without an error")
	}
	return 0
}

// pahoV5 is a client of paho.golang.
type pahoV5 struct {
	inbox
	client  *paho.Client
	conn    net.Conn
	connack *paho.Connack
	reason  chan byte
}

func connectPahoV5(t testing.TB, addr string, o options) client {
	t.Helper()
	return dialPahoV5(t, addr, o, nil)
}

// dialPahoV5 connects; change, if there is one, has the last word on the CONNECT.
func dialPahoV5(t testing.TB, addr string, o options, change func(*paho.Connect)) *pahoV5 {
	t.Helper()
	if o.clientID == "" {
		o.clientID = brokertest.Name()
	}
	conn, err := dialPaho(addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &pahoV5{inbox: newInbox(t, "paho.golang"), conn: conn, reason: make(chan byte, 1)}
	t.Cleanup(c.kill)
	c.client = paho.NewClient(paho.ClientConfig{
		Conn:               packets.NewThreadSafeConn(conn), // its pings else come amid other packets where a packet is several writes
		PacketTimeout:      patience,
		OnServerDisconnect: func(d *paho.Disconnect) { c.reason <- d.ReasonCode },
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			c.put(fromPaho(p.Packet))
			return true, nil
		}},
	})
	connect := &paho.Connect{ClientID: o.clientID, KeepAlive: 60, CleanStart: !o.durable, Properties: &paho.ConnectProperties{RequestProblemInfo: true}}
	if o.durable {
		connect.Properties.SessionExpiryInterval = new(uint32(60))
	}
	if o.topicAliasMaximum > 0 {
		connect.Properties.TopicAliasMaximum = new(o.topicAliasMaximum)
	}
	if w := o.will; w != nil {
		connect.WillMessage = &paho.WillMessage{Topic: w.topic, Payload: w.payload, QoS: w.qos, Retain: w.retain}
		p := toPaho(w.properties)
		connect.WillProperties = &paho.WillProperties{
			PayloadFormat: p.PayloadFormat, MessageExpiry: p.MessageExpiry, ContentType: p.ContentType,
			ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData, User: p.User,
		}
		if o.willDelay > 0 {
			connect.WillProperties.WillDelayInterval = new(o.willDelay)
		}
	}
	if change != nil {
		change(connect)
	}
	ctx, cancel := c.context()
	defer cancel()
	if c.connack, err = c.client.Connect(ctx, connect); err != nil {
		t.Fatalf("paho.golang: connect: %v", err)
	}
	if !c.connack.SessionPresent {
		for _, s := range o.subscribe {
			c.subscribe(s)
		}
	}
	return c
}

func (c *pahoV5) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func (c *pahoV5) subscribe(s subscription) {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	p := &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: s.filter, QoS: s.qos}}}
	if s.identifier != 0 {
		p.Properties = &paho.SubscribeProperties{SubscriptionIdentifier: new(int(s.identifier))}
	}
	if _, err := c.client.Subscribe(ctx, p); err != nil {
		c.t.Fatalf("paho.golang: subscribe to %s: %v", s.filter, err)
	}
}

func (c *pahoV5) publish(m message) {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	p := &paho.Publish{Topic: m.topic, Payload: m.payload, QoS: m.qos, Retain: m.retain, Properties: toPaho(m.properties)}
	if _, err := c.client.Publish(ctx, p); err != nil {
		c.t.Fatalf("paho.golang: publish: %v", err)
	}
}

func (c *pahoV5) sessionPresent() (present, known bool) { return c.connack.SessionPresent, true }

func (c *pahoV5) disconnect() {
	c.t.Helper()
	if err := c.client.Disconnect(&paho.Disconnect{}); err != nil {
		c.t.Fatalf("paho.golang: disconnect: %v", err)
	}
}

func (c *pahoV5) kill() {
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.t.Errorf("paho.golang: close: %v", err)
	}
}

func (c *pahoV5) closed() byte {
	c.t.Helper()
	return wait(c.t, c.reason, "DISCONNECT for paho.golang")
}

func toPaho(p properties) *paho.PublishProperties {
	v := &paho.PublishProperties{ContentType: p.contentType, ResponseTopic: p.responseTopic}
	if p.correlationData != "" {
		v.CorrelationData = []byte(p.correlationData)
	}
	if p.utf8 {
		v.PayloadFormat = new(byte(1))
	}
	if p.expiry > 0 {
		v.MessageExpiry = new(p.expiry)
	}
	if p.topicAlias > 0 {
		v.TopicAlias = new(p.topicAlias)
	}
	for _, u := range p.user {
		v.User.Add(u.Key, u.Value)
	}
	return v
}

func fromPaho(p *paho.Publish) message {
	m := message{topic: p.Topic, payload: p.Payload, qos: p.QoS, retain: p.Retain}
	v := p.Properties
	m.properties = properties{contentType: v.ContentType, responseTopic: v.ResponseTopic, correlationData: string(v.CorrelationData)}
	m.properties.utf8 = v.PayloadFormat != nil && *v.PayloadFormat == 1
	if v.MessageExpiry != nil {
		m.properties.expiry = *v.MessageExpiry
	}
	if v.TopicAlias != nil {
		m.properties.topicAlias = *v.TopicAlias
	}
	if v.SubscriptionIdentifier != nil { // it has room for one
		m.properties.subscriptionIDs = []uint32{uint32(*v.SubscriptionIdentifier)}
	}
	for _, u := range v.User {
		m.properties.user = append(m.properties.user, userProperty{u.Key, u.Value})
	}
	return m
}
