package peers

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"loopmq/internal/brokertest"
)

// node is the process in which all clients of MQTT.js run. It starts with the first of them.
type node struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	files string // the directory for large payloads

	mu struct {
		sync.Mutex
		last    int
		answers map[int]chan nodeLine
		clients map[string]*mqttJS
	}
}

// nodeLine is a line that the process prints: the answer to a request, or what happened to a client.
type nodeLine struct {
	N     int    `json:"n"`
	Error string `json:"error"`

	SessionPresent      bool   `json:"sessionPresent"`
	ResponseInformation string `json:"responseInformation"`
	Granted             *byte  `json:"granted"`

	Client     string         `json:"client"`
	Event      string         `json:"event"`
	Topic      string         `json:"topic"`
	Payload    []byte         `json:"payload"`
	File       string         `json:"file"`
	QoS        byte           `json:"qos"`
	Retain     bool           `json:"retain"`
	Reason     byte           `json:"reason"`
	Properties nodeProperties `json:"properties"`
}

type nodeProperties struct {
	PayloadFormatIndicator bool           `json:"payloadFormatIndicator,omitempty"`
	MessageExpiryInterval  uint32         `json:"messageExpiryInterval,omitempty"`
	ContentType            string         `json:"contentType,omitempty"`
	ResponseTopic          string         `json:"responseTopic,omitempty"`
	CorrelationData        []byte         `json:"correlationData,omitempty"`
	User                   []userProperty `json:"user,omitempty"`
	TopicAlias             uint16         `json:"topicAlias,omitempty"`
	SubscriptionIdentifier []uint32       `json:"subscriptionIdentifier,omitempty"`
	WillDelayInterval      uint32         `json:"willDelayInterval,omitempty"`
}

var theNode struct {
	once sync.Once
	*node
	err error
}

func startNode(t testing.TB) *node {
	t.Helper()
	theNode.once.Do(func() { theNode.node, theNode.err = newNode() })
	if theNode.err != nil {
		t.Fatalf("start MQTT.js: %v", theNode.err)
	}
	return theNode.node
}

// stopNode ends the process, if it was started.
func stopNode() {
	if n := theNode.node; n != nil {
		_ = n.stdin.Close()
		_ = n.cmd.Wait()
		_ = os.RemoveAll(n.files)
	}
}

func newNode() (*node, error) {
	files, err := os.MkdirTemp("", "loopmq-peers")
	if err != nil {
		return nil, err
	}
	n := &node{cmd: exec.Command("node", "mqttjs/peer.js", files), files: files}
	n.mu.answers, n.mu.clients = map[int]chan nodeLine{}, map[string]*mqttJS{}
	n.cmd.Stderr = os.Stderr
	if n.stdin, err = n.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go n.read(stdout)
	return n, nil
}

// read hands the lines of the process to those who wait for them.
func (n *node) read(stdout io.Reader) {
	lines := bufio.NewReaderSize(stdout, 256<<10)
	for {
		b, err := lines.ReadBytes('\n')
		if err != nil {
			return // it ended
		}
		var line nodeLine
		if err := json.Unmarshal(b, &line); err != nil {
			fmt.Fprintf(os.Stderr, "MQTT.js printed %.200q: %v\n", b, err)
			continue
		}
		n.mu.Lock()
		answer, c := n.mu.answers[line.N], n.mu.clients[line.Client]
		delete(n.mu.answers, line.N)
		n.mu.Unlock()
		switch {
		case line.N != 0:
			answer <- line
		case c != nil && line.Event == "message":
			c.put(line.message())
		case c != nil && line.Event == "close":
			c.ended <- line.Reason
		}
	}
}

// ask sends a request and returns its answer.
func (n *node) ask(t testing.TB, request map[string]any) nodeLine {
	t.Helper()
	answer := make(chan nodeLine, 1)
	n.mu.Lock()
	n.mu.last++
	request["n"] = n.mu.last
	n.mu.answers[n.mu.last] = answer
	b, err := json.Marshal(request)
	if err == nil {
		_, err = n.stdin.Write(append(b, '\n'))
	}
	n.mu.Unlock()
	if err != nil {
		t.Fatalf("MQTT.js: %v: %v", request["op"], err)
	}
	line := wait(t, answer, fmt.Sprintf("MQTT.js: %v", request["op"]))
	if line.Error != "" {
		t.Fatalf("MQTT.js: %v: %s", request["op"], line.Error)
	}
	return line
}

// mqttJS is a client of MQTT.js.
type mqttJS struct {
	inbox
	node                *node
	id                  string // its name in the process
	version             byte
	present             bool
	responseInformation string
	ended               chan byte
}

func connectMQTTJS(version byte) func(testing.TB, string, options) client {
	return func(t testing.TB, addr string, o options) client {
		t.Helper()
		return dialMQTTJS(t, addr, version, o, nil)
	}
}

// dialMQTTJS connects with further options of MQTT.js.
func dialMQTTJS(t testing.TB, addr string, version byte, o options, more map[string]any) *mqttJS {
	t.Helper()
	n := startNode(t)
	c := &mqttJS{inbox: newInbox(t, "MQTT.js"), node: n, id: brokertest.Name(), version: version, ended: make(chan byte, 1)}
	n.mu.Lock()
	n.mu.clients[c.id] = c
	n.mu.Unlock()
	t.Cleanup(func() {
		c.kill()
		n.mu.Lock()
		delete(n.mu.clients, c.id)
		n.mu.Unlock()
	})
	url := addr
	if !strings.Contains(url, "://") {
		url = "mqtt://" + addr
	}
	answer := n.ask(t, map[string]any{"op": "connect", "client": c.id, "url": url, "options": connectOptions(version, o, more)})
	c.present, c.responseInformation = answer.SessionPresent, answer.ResponseInformation
	if !c.present {
		for _, s := range o.subscribe {
			c.subscribe(s)
		}
	}
	return c
}

// connectOptions are the options as MQTT.js names them.
func connectOptions(version byte, o options, more map[string]any) map[string]any {
	if o.clientID == "" {
		o.clientID = brokertest.Name()
	}
	properties := map[string]any{}
	v := map[string]any{
		"protocolVersion": version, "protocolId": "MQTT", "clientId": o.clientID, "clean": !o.durable,
		"keepalive": 60, "reconnectPeriod": 0, "resubscribe": false, "connectTimeout": patience.Milliseconds(),
		"rejectUnauthorized": false, // certificates of tests are self-signed
	}
	if version == 3 {
		v["protocolId"] = "MQIsdp"
	}
	if w := o.will; w != nil {
		will := map[string]any{"topic": w.topic, "payload": w.payload, "qos": w.qos, "retain": w.retain}
		if version == 5 {
			p := toNode(w.properties)
			p.WillDelayInterval = o.willDelay
			will["properties"] = p
		}
		v["will"] = will
	}
	if version == 5 {
		if o.durable {
			properties["sessionExpiryInterval"] = 60
		}
		if o.topicAliasMaximum > 0 {
			properties["topicAliasMaximum"] = o.topicAliasMaximum
		}
		v["properties"] = properties
	}
	for name, value := range more {
		if name == "properties" {
			for name, value := range value.(map[string]any) {
				properties[name] = value
			}
			continue
		}
		v[name] = value
	}
	return v
}

func (c *mqttJS) subscribe(s subscription) {
	c.t.Helper()
	o := map[string]any{"qos": s.qos}
	if s.identifier != 0 {
		o["properties"] = map[string]any{"subscriptionIdentifier": s.identifier}
	}
	answer := c.node.ask(c.t, map[string]any{"op": "subscribe", "client": c.id, "filter": s.filter, "options": o})
	if answer.Granted == nil || *answer.Granted != s.qos {
		c.t.Fatalf("MQTT.js: subscribe to %s: not granted QoS %d", s.filter, s.qos)
	}
}

func (c *mqttJS) publish(m message) {
	c.t.Helper()
	r := map[string]any{"op": "publish", "client": c.id, "topic": m.topic, "qos": m.qos, "retain": m.retain, "properties": toNode(m.properties)}
	if len(m.payload) > 64<<10 {
		file := filepath.Join(c.t.TempDir(), "payload")
		if err := os.WriteFile(file, m.payload, 0o600); err != nil {
			c.t.Fatal(err)
		}
		r["file"] = file
	} else {
		r["payload"] = m.payload
	}
	c.node.ask(c.t, r)
}

func (c *mqttJS) sessionPresent() (present, known bool) { return c.present, c.version > 3 }

func (c *mqttJS) disconnect() {
	c.t.Helper()
	c.node.ask(c.t, map[string]any{"op": "disconnect", "client": c.id})
}

func (c *mqttJS) kill() {
	c.t.Helper()
	c.node.ask(c.t, map[string]any{"op": "kill", "client": c.id})
}

func (c *mqttJS) closed() byte {
	c.t.Helper()
	return wait(c.t, c.ended, "end of MQTT.js's connection")
}

func toNode(p properties) nodeProperties {
	return nodeProperties{
		PayloadFormatIndicator: p.utf8, MessageExpiryInterval: p.expiry, ContentType: p.contentType, ResponseTopic: p.responseTopic,
		CorrelationData: []byte(p.correlationData), User: p.user, TopicAlias: p.topicAlias,
	}
}

func (l *nodeLine) message() message {
	m := message{topic: l.Topic, payload: l.Payload, qos: l.QoS, retain: l.Retain}
	if l.File != "" {
		m.payload, _ = os.ReadFile(l.File) // a failure shows as another payload
		_ = os.Remove(l.File)
	}
	p := &l.Properties
	m.properties = properties{
		utf8: p.PayloadFormatIndicator, expiry: p.MessageExpiryInterval, contentType: p.ContentType, responseTopic: p.ResponseTopic,
		correlationData: string(p.CorrelationData), topicAlias: p.TopicAlias, subscriptionIDs: p.SubscriptionIdentifier,
	}
	if len(p.User) > 0 {
		m.properties.user = p.User
	}
	return m
}

// The versions are those of the lock file.
func TestMQTTJSVersion(t *testing.T) {
	want, err := os.ReadFile("mqttjs/package.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("mqttjs/node_modules/mqtt/package.json")
	if err != nil {
		t.Fatal(err)
	}
	var wanted struct{ Dependencies map[string]string }
	var installed struct{ Version string }
	if err := json.Unmarshal(want, &wanted); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &installed); err != nil {
		t.Fatal(err)
	}
	if w := strings.TrimSpace(wanted.Dependencies["mqtt"]); installed.Version != w {
		t.Errorf("MQTT.js %s is installed, want %s: npm ci in internal/peers/mqttjs", installed.Version, w)
	}
}
