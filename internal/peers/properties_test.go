package peers

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"

	"loopmq"
	"loopmq/internal/brokertest"
	"loopmq/store/memory"
)

// The properties of a message arrive as they were published, User Properties in their order; a client of 3.x gets the message without.
func TestProperties(t *testing.T) {
	addr := start(t)
	want := properties{
		utf8: true, expiry: 3600, contentType: "text/plain; charset=utf-8", responseTopic: "answers/1", correlationData: "no. 1",
		// MQTT.js has them as an object, so those with the same key stay together.
		user: []userProperty{{"z", "1"}, {"z", "1"}, {"z", "0"}, {"a", "2"}, {"", ""}, {"größe", "ü"}},
	}
	for i, from := range v5Peers {
		sender := from.connect(t, addr, options{})
		for j, to := range peers {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				m := text(fmt.Sprintf("properties/%d/%d", i, j), "hello", 1)
				m.properties = want
				receiver := to.connect(t, addr, options{subscribe: []subscription{{filter: m.topic, qos: 1}}})
				sender.publish(m)
				got := expect(t, receiver, m).properties
				if to.version < 5 {
					expectProperties(t, got, properties{})
					return
				}
				if got.expiry == want.expiry-1 { // it took a moment
					got.expiry++
				}
				expectProperties(t, got, want)
			})
		}
	}
}

// User Properties keep their order, that of equal keys among others too.
func TestUserPropertyOrder(t *testing.T) {
	addr := start(t)
	want := properties{user: []userProperty{{"b", "1"}, {"a", "2"}, {"b", "3"}, {"a", "2"}, {"c", "5"}, {"b", "1"}}}
	pairs := []peer{{"mosquitto-5.0", 5, connectMosquitto(5)}, {"paho.golang-5.0", 5, connectPahoV5}}
	for _, from := range pairs {
		for _, to := range pairs {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				m := text("order", "hello", 1)
				m.properties = want
				receiver := to.connect(t, addr, options{subscribe: []subscription{{filter: m.topic, qos: 1}}})
				from.connect(t, addr, options{}).publish(m)
				expectProperties(t, expect(t, receiver, m).properties, want)
				receiver.disconnect()
			})
		}
	}
}

// The properties of a Will come with it.
func TestWillProperties(t *testing.T) {
	addr := start(t)
	want := properties{
		utf8: true, contentType: "text/plain", responseTopic: "answers/2", correlationData: "no. 2", user: []userProperty{{"k", "v"}, {"k", "w"}},
	}
	for _, p := range v5Peers {
		t.Run(p.name, func(t *testing.T) {
			want := want
			if p.name == "paho.golang-5.0" { // it sends no others with a Will
				want = properties{user: want.user}
			}
			receivers := make([]client, len(v5Peers))
			topic := "will/" + brokertest.Name()
			for i, to := range v5Peers {
				receivers[i] = to.connect(t, addr, options{subscribe: []subscription{{filter: topic, qos: 1}}})
			}
			will := text(topic, "gone", 1)
			will.properties = want
			p.connect(t, addr, options{will: &will, subscribe: []subscription{{filter: "nothing"}}}).kill()
			for _, r := range receivers {
				expectProperties(t, expect(t, r, will).properties, want)
			}
		})
	}
}

// A request carries the Response Topic and Correlation Data with which its answer comes back.
func TestRequestResponse(t *testing.T) {
	addr := brokertest.Start(t, func(o *loopmq.Options) { o.ResponseInformation = "answers/" }).Addr

	t.Run("response information", func(t *testing.T) {
		ask := func(c *paho.Connect) { c.Properties.RequestResponseInfo = true }
		c := dialPahoV5(t, addr, options{clientID: "requester"}, ask)
		if got := c.connack.Properties.ResponseInfo; got != "answers/requester/" {
			t.Errorf("paho.golang got %q", got)
		}
		if got := dialPahoV5(t, addr, options{}, nil).connack.Properties.ResponseInfo; got != "" {
			t.Errorf("paho.golang got %q without having asked", got)
		}
		more := map[string]any{"properties": map[string]any{"requestResponseInformation": true}}
		if got := dialMQTTJS(t, addr, 5, options{clientID: "other"}, more).responseInformation; got != "answers/other/" {
			t.Errorf("MQTT.js got %q", got)
		}
	})

	for i, from := range v5Peers {
		for j, to := range v5Peers {
			t.Run(from.name+" asks "+to.name, func(t *testing.T) {
				request := text(fmt.Sprintf("requests/%d/%d", i, j), "how much is it?", 1)
				request.properties = properties{responseTopic: fmt.Sprintf("answers/%d/%d", i, j), correlationData: "no. 1"}
				requester := from.connect(t, addr, options{subscribe: []subscription{{filter: request.properties.responseTopic, qos: 1}}})
				responder := to.connect(t, addr, options{subscribe: []subscription{{filter: request.topic, qos: 1}}})
				requester.publish(request)
				got := expect(t, responder, request).properties
				answer := text(got.responseTopic, "42", 1)
				answer.properties.correlationData = got.correlationData
				responder.publish(answer)
				expectProperties(t, expect(t, requester, text(request.properties.responseTopic, "42", 1)).properties, answer.properties)
			})
		}
		t.Run("mosquitto_rr asks "+from.name, func(t *testing.T) {
			responder := from.connect(t, addr, options{subscribe: []subscription{{filter: "requests/rr", qos: 1}}})
			var asked sync.WaitGroup
			asked.Go(func() {
				host, port, _ := net.SplitHostPort(addr)
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				out, err := exec.CommandContext(ctx, "mosquitto_rr", "-h", host, "-p", port, "-V", "mqttv5", "-q", "1",
					"-t", "requests/rr", "-e", "answers/rr", "-m", "how much is it?").CombinedOutput()
				if err != nil || strings.TrimSpace(string(out)) != "42" {
					t.Errorf("mosquitto_rr: %v, %q, want 42", err, out)
				}
			})
			got := expect(t, responder, text("requests/rr", "how much is it?", 1)).properties
			answer := text(got.responseTopic, "42", 1)
			answer.properties.correlationData = got.correlationData
			responder.publish(answer)
			asked.Wait()
			responder.disconnect()
		})
	}
}

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// The Message Expiry Interval is counted down while a message waits, and a message that has expired is not delivered, to 3.x neither.
func TestMessageExpiry(t *testing.T) {
	now := &clock{now: time.Now()}
	store := memory.New(memory.Options{Now: now.Now})
	defer store.Close()
	addr := brokertest.Start(t, func(o *loopmq.Options) { o.Store = store }).Addr
	for i, from := range v5Peers {
		sender := from.connect(t, addr, options{})
		for j, to := range peers {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				id := brokertest.Name()
				o := options{clientID: id, durable: true, subscribe: []subscription{{filter: fmt.Sprintf("expiry/%d/%d", i, j), qos: 1}}}
				to.connect(t, addr, o).disconnect()
				short := text(o.subscribe[0].filter, "for 10 s", 1)
				short.properties.expiry = 10
				long := text(o.subscribe[0].filter, "for 50 s", 1)
				long.properties.expiry = 50
				sender.publish(short)
				sender.publish(long)
				now.advance(11 * time.Second)
				got := expect(t, to.connect(t, addr, o), long).properties
				want := properties{}
				if to.version == 5 {
					want.expiry = 39
				}
				expectProperties(t, got, want)
			})
		}
	}
}

// A Topic Alias stands for the topic that the client gave with it; receivers see the topic.
func TestTopicAliasOfClient(t *testing.T) {
	addr := start(t)
	receivers := connectAll(t, addr, func(int) options {
		return options{subscribe: []subscription{{filter: "alias/#", qos: 1}}}
	})
	senders := map[string]client{
		"paho.golang": connectPahoV5(t, addr, options{}),
		// It refuses aliases unless it was told to do it by itself.
		"MQTT.js": dialMQTTJS(t, addr, 5, options{}, map[string]any{"autoAssignTopicAlias": true}),
	}
	for name, sender := range senders {
		t.Run(name, func(t *testing.T) {
			publish := func(topic, effective string, alias uint16) {
				m := text(topic, "hello", 1)
				m.properties.topicAlias = alias
				if name == "MQTT.js" {
					m = text(effective, "hello", 1)
				}
				sender.publish(m)
				for _, r := range receivers {
					expect(t, r, text(effective, "hello", 1))
				}
			}
			publish("alias/one", "alias/one", 1)
			publish("", "alias/one", 1)
			publish("alias/two", "alias/two", 2)
			publish("", "alias/one", 1)
			publish("", "alias/two", 2)
			publish("alias/three", "alias/three", 1)
			publish("", "alias/three", 1)
		})
	}
}

// The broker uses as many Topic Aliases as a client takes. paho.golang shows the packets as they come, MQTT.js puts the topic back, and
// mosquitto_sub 2.0 has none.
func TestTopicAliasOfServer(t *testing.T) {
	addr := start(t)
	sender := connectPahoV3(t, addr, options{})
	each(t, v5Peers[1:], func(t *testing.T, p peer) {
		c := p.connect(t, addr, options{topicAliasMaximum: 2, subscribe: []subscription{{filter: "topic/#", qos: 1}}})
		for _, step := range []struct {
			topic string
			sent  string
			alias uint16
		}{
			{"topic/one", "topic/one", 1},
			{"topic/one", "", 1},
			{"topic/two", "topic/two", 2},
			{"topic/three", "topic/three", 0},
			{"topic/one", "", 1},
			{"topic/two", "", 2},
			{"topic/three", "topic/three", 0},
		} {
			sender.publish(text(step.topic, "hello", 1))
			if _, isPaho := c.(*pahoV5); !isPaho {
				expect(t, c, text(step.topic, "hello", 1))
				continue
			}
			got := expect(t, c, text(step.sent, "hello", 1))
			expectProperties(t, got.properties, properties{topicAlias: step.alias})
		}
	})
}

// A message carries the identifiers of all the subscriptions that it matches.
func TestSubscriptionIdentifiers(t *testing.T) {
	addr := start(t)
	sender := connectPahoV3(t, addr, options{})
	each(t, v5Peers, func(t *testing.T, p peer) {
		const largest = 268435455
		topic := "identifiers/" + p.name
		c := p.connect(t, addr, options{subscribe: []subscription{{filter: topic, qos: 1, identifier: largest}}})
		sender.publish(text(topic, "hello", 1))
		expectProperties(t, expect(t, c, text(topic, "hello", 1)).properties, properties{subscriptionIDs: []uint32{largest}})
	})
	t.Run("two", func(t *testing.T) { // which only MQTT.js shows
		c := dialMQTTJS(t, addr, 5, options{subscribe: []subscription{
			{filter: "two/+", qos: 1, identifier: 7}, {filter: "two/#", qos: 2, identifier: 8}, {filter: "two/x/#", qos: 0},
		}}, nil)
		sender.publish(text("two/x", "hello", 2))
		got := expect(t, c, text("two/x", "hello", 2)).properties.subscriptionIDs
		if len(got) != 2 || got[0]+got[1] != 15 {
			t.Errorf("got %d, want 7 and 8", got)
		}
	})
}

// An assigned Client Identifier, and what a client may ask of this broker, are in CONNACK, as the client's library reads them.
func TestConnack(t *testing.T) {
	addr := brokertest.Start(t, func(o *loopmq.Options) {
		o.Limits.KeepAlive, o.Limits.ReceiveMaximum, o.Limits.TopicAliasMaximum, o.Limits.PacketSize = 30, 10, 5, 1<<20
	}).Addr
	c := dialPahoV5(t, addr, options{}, func(p *paho.Connect) { p.ClientID = "" })
	p := c.connack.Properties
	if p.AssignedClientID == "" {
		t.Error("no assigned Client Identifier")
	}
	if p.ServerKeepAlive == nil || *p.ServerKeepAlive != 30 || p.ReceiveMaximum == nil || *p.ReceiveMaximum != 10 ||
		p.TopicAliasMaximum == nil || *p.TopicAliasMaximum != 5 || p.MaximumPacketSize == nil || *p.MaximumPacketSize != 1<<20 {
		t.Errorf("got %s", c.connack)
	}
	if !p.RetainAvailable || !p.WildcardSubAvailable || !p.SubIDAvailable || !p.SharedSubAvailable {
		t.Errorf("something isn't available: %s", c.connack)
	}
}

// A message that exceeds the limit ends the connection with Packet too large; other clients don't notice.
func TestPacketTooLarge(t *testing.T) {
	addr := brokertest.Start(t, func(o *loopmq.Options) { o.Limits.PacketSize = 1 << 20 }).Addr
	receiver := connectPahoV5(t, addr, options{subscribe: []subscription{{filter: "size", qos: 1}}})
	sender := connectPahoV5(t, addr, options{}).(*pahoV5)
	ctx, cancel := sender.context()
	var published sync.WaitGroup
	published.Go(func() { // it waits for a PUBACK, whatever happens
		p := &paho.Publish{Topic: "size", QoS: 1, Payload: bytes.Repeat([]byte("x"), 1<<20)}
		if _, err := sender.client.Publish(ctx, p); err == nil {
			t.Error("the message was acknowledged")
		}
	})
	if reason := sender.closed(); reason != 0x95 {
		t.Errorf("got reason code %#x, want 0x95", reason)
	}
	cancel()
	published.Wait()
	receiver.publish(text("size", "small", 1))
	expect(t, receiver, text("size", "small", 1))
}
