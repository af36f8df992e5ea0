package peers

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"testing"
	"time"

	opcuaserver "loopmq/bridges/opcua/server"
	"loopmq/internal/brokertest"
)

// patience is how long a test waits for anything before it fails. Nothing takes that long.
const patience = time.Minute

// peer is one client in one version of the protocol.
type peer struct {
	name    string
	version byte // 3: MQTT 3.1, 4: 3.1.1, 5: 5.0
	// connect returns when the client is connected and subscribed to what the options say.
	connect func(t testing.TB, addr string, o options) client
}

var peers = []peer{
	{"mosquitto-3.1", 3, connectMosquitto(3)},
	{"mosquitto-3.1.1", 4, connectMosquitto(4)},
	{"mosquitto-5.0", 5, connectMosquitto(5)},
	{"paho.mqtt.golang-3.1.1", 4, connectPahoV3},
	{"paho.golang-5.0", 5, connectPahoV5},
	{"MQTT.js-3.1", 3, connectMQTTJS(3)},
	{"MQTT.js-3.1.1", 4, connectMQTTJS(4)},
	{"MQTT.js-5.0", 5, connectMQTTJS(5)},
}

// v5Peers are those of peers that speak MQTT 5.0.
var v5Peers = func() (v5 []peer) {
	for _, p := range peers {
		if p.version == 5 {
			v5 = append(v5, p)
		}
	}
	return v5
}()

// options are what a client says in CONNECT and SUBSCRIBE.
type options struct {
	clientID string // empty: a new one
	// durable makes a session that outlives its connection: Clean Session 0, in 5.0 Clean Start 0 and a Session Expiry Interval.
	durable bool
	will    *message
	// willDelay is the Will Delay Interval, in seconds.
	willDelay uint32
	subscribe []subscription
	// topicAliasMaximum is how many Topic Aliases the client takes.
	topicAliasMaximum uint16
}

type subscription struct {
	filter     string
	qos        byte
	identifier uint32 // 0: none
}

// message is what clients send and receive. MQTT 3.x has no properties.
type message struct {
	topic      string
	payload    []byte
	qos        byte
	retain     bool
	properties properties
}

type properties struct {
	utf8            bool // Payload Format Indicator is 1
	expiry          uint32
	contentType     string
	responseTopic   string
	correlationData string
	user            []userProperty
	subscriptionIDs []uint32
	topicAlias      uint16
}

type userProperty struct{ Key, Value string }

// client is a connection of a peer. Its methods fail the test when something else happens than they are to wait for.
type client interface {
	// publish returns when the broker has acknowledged m as its QoS demands.
	publish(m message)
	// receive returns the next message that came.
	receive() message
	// sessionPresent returns the Session Present of CONNACK; known is false in 3.1, which has none, and for a peer that doesn't tell.
	sessionPresent() (present, known bool)
	// disconnect ends the connection with DISCONNECT and waits until all of it is sent.
	disconnect()
	// kill ends it without, as a failure of the network or of the client does.
	kill()
	// closed waits until the broker has ended the connection, and returns the Reason Code of its DISCONNECT; 0 in 3.x.
	closed() byte
}

// TestMain says what is missing, in one line, before a test fails for it.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == beOPCUAServer {
		if err := opcuaserver.Serve(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := missing(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	stopNode()
	os.Exit(code)
}

func missing() error {
	for _, p := range []struct{ program, debian string }{
		{"mosquitto_pub", "mosquitto-clients"},
		{"mosquitto_sub", "mosquitto-clients"},
		{"mosquitto_rr", "mosquitto-clients"},
		{"stdbuf", "coreutils"},
		{"node", "nodejs"},
		{"chromium", "chromium"},
	} {
		if _, err := exec.LookPath(p.program); err != nil {
			return fmt.Errorf("peers: %s isn't installed: apt-get install %s, or make test, which does it", p.program, p.debian)
		}
	}
	if _, err := os.Stat("mqttjs/node_modules/mqtt/package.json"); err != nil {
		return fmt.Errorf("peers: MQTT.js isn't installed: npm ci in internal/peers/mqttjs, or make test, which does it")
	}
	if _, err := os.Stat("nodeopcua/node_modules/node-opcua/package.json"); err != nil {
		return fmt.Errorf("peers: node-opcua isn't installed: npm ci in internal/peers/nodeopcua, or make test, which does it")
	}
	if _, err := os.Stat("nodecoap/node_modules/coap/package.json"); err != nil {
		return fmt.Errorf("peers: coap of npm isn't installed: npm ci in internal/peers/nodecoap, or make test, which does it")
	}
	return nil
}

// start runs a broker and returns its address.
func start(t testing.TB) string {
	t.Helper()
	return brokertest.Start(t).Addr
}

// each runs f as a subtest for each peer.
func each(t *testing.T, peers []peer, f func(t *testing.T, p peer)) {
	for _, p := range peers {
		t.Run(p.name, func(t *testing.T) { f(t, p) })
	}
}

// expect takes the next message of a client, which has to be m; of properties, those that both peers can have.
func expect(t testing.TB, c client, m message) message {
	t.Helper()
	got := c.receive()
	if got.topic != m.topic || !bytes.Equal(got.payload, m.payload) || got.qos != m.qos || got.retain != m.retain {
		t.Fatalf("got %v, want %v", got, m)
	}
	return got
}

// expectProperties checks the properties of a message.
func expectProperties(t testing.TB, got, want properties) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

// String shows a message in one line.
func (m message) String() string {
	return fmt.Sprintf("%q: %.60q (%d bytes), QoS %d, retain %t", m.topic, m.payload, len(m.payload), m.qos, m.retain)
}

// text makes a message.
func text(topic, payload string, qos byte) message {
	return message{topic: topic, payload: []byte(payload), qos: qos}
}

// retained makes m a retained message.
func retained(m message) message {
	m.retain = true
	return m
}

// inbox holds what a client received, in order.
type inbox struct {
	t        testing.TB
	name     string
	messages chan message
}

func newInbox(t testing.TB, name string) inbox {
	return inbox{t: t, name: name, messages: make(chan message, 1000)}
}

// put is called by the peer's library or by who reads its output.
func (i *inbox) put(m message) { i.messages <- m }

func (i *inbox) receive() message {
	i.t.Helper()
	select {
	case m := <-i.messages:
		return m
	case <-time.After(patience):
		i.t.Fatalf("%s: no message within %v", i.name, patience)
		return message{}
	}
}

// wait waits for the value that something asynchronous gives.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}
