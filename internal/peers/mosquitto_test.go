package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"loopmq/internal/brokertest"
)

// mosquitto is a client made of mosquitto_sub, which runs as long as it is connected, and of one mosquitto_pub for each message. Without
// subscriptions there is no mosquitto_sub.
//
// mosquitto_sub connects again by itself when the broker ends its connection. So it connects through a gate that lets it in once.
type mosquitto struct {
	inbox
	addr    string
	version byte
	o       options

	sub        *exec.Cmd
	gate       *gate
	subscribed chan struct{}
	reason     chan byte // of the broker's DISCONNECT
	exited     chan struct{}
}

func connectMosquitto(version byte) func(testing.TB, string, options) client {
	return func(t testing.TB, addr string, o options) client {
		t.Helper()
		if o.clientID == "" {
			o.clientID = brokertest.Name()
		}
		c := &mosquitto{
			inbox: newInbox(t, "mosquitto_sub"), addr: addr, version: version, o: o,
			subscribed: make(chan struct{}), reason: make(chan byte, 1), exited: make(chan struct{}),
		}
		if len(o.subscribe) > 0 {
			c.startSub()
		}
		return c
	}
}

// versionFlag is the protocol version as mosquitto's programs want it.
func (c *mosquitto) versionFlag() string {
	return map[byte]string{3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}[c.version]
}

func (c *mosquitto) subArgs() []string {
	args := []string{"-i", c.o.clientID, "-V", c.versionFlag(), "-d", "-F", "%j", "-q", strconv.Itoa(int(c.o.subscribe[0].qos))}
	if c.o.durable {
		args = append(args, "-c")
		if c.version == 5 {
			args = append(args, "-x", "60")
		}
	}
	for _, s := range c.o.subscribe {
		args = append(args, "-t", s.filter)
	}
	if id := c.o.subscribe[0].identifier; id != 0 {
		args = append(args, "-D", "subscribe", "subscription-identifier", strconv.Itoa(int(id)))
	}
	if w := c.o.will; w != nil {
		args = append(args, "--will-topic", w.topic, "--will-payload", string(w.payload), "--will-qos", strconv.Itoa(int(w.qos)))
		if w.retain {
			args = append(args, "--will-retain")
		}
		if c.o.willDelay > 0 {
			args = append(args, "-D", "will", "will-delay-interval", strconv.Itoa(int(c.o.willDelay)))
		}
		args = append(args, propertyFlags("will", w.properties)...)
	}
	if c.o.topicAliasMaximum > 0 {
		args = append(args, "-D", "connect", "topic-alias-maximum", strconv.Itoa(int(c.o.topicAliasMaximum)))
	}
	return args
}

// startSub starts mosquitto_sub and waits for its SUBACK.
func (c *mosquitto) startSub() {
	c.t.Helper()
	c.gate = openGate(c.t, c.addr)
	host, port, _ := net.SplitHostPort(c.gate.addr)
	// By itself it keeps what it prints for a pipe until its buffer is full; stdbuf becomes mosquitto_sub, by exec.
	c.sub = exec.Command("stdbuf", append([]string{"-oL", "mosquitto_sub", "-h", host, "-p", port}, c.subArgs()...)...)
	stdout, err := c.sub.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	var stderr bytes.Buffer
	c.sub.Stderr = &stderr
	if err := c.sub.Start(); err != nil {
		c.t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		defer close(c.exited)
		if err := c.read(stdout); err != nil {
			failed <- err
		}
		_ = c.sub.Wait()
	}()
	c.t.Cleanup(func() {
		c.kill()
		select {
		case err := <-failed:
			c.t.Errorf("mosquitto_sub: %v", err)
		default:
		}
	})
	select {
	case <-c.subscribed:
	case <-c.exited:
		c.t.Fatalf("mosquitto_sub %q ended: %s", c.subArgs(), &stderr)
	case <-c.gate.ended:
		c.t.Fatalf("mosquitto_sub %q: the broker closed its connection", c.subArgs())
	case <-time.After(patience):
		c.t.Fatalf("mosquitto_sub %q: not subscribed within %v", c.subArgs(), patience)
	}
}

// read takes what mosquitto_sub prints: a JSON object for a message, and a line for each packet.
func (c *mosquitto) read(stdout io.Reader) error {
	lines := bufio.NewReaderSize(stdout, 64<<10)
	subscribed := false
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return nil //nolint:nilerr // the program ended
		}
		switch {
		case line[0] == '{':
			m, err := parseMosquitto(line)
			if err != nil {
				return fmt.Errorf("%w: %.200s", err, line)
			}
			c.put(m)
		case bytes.HasPrefix(line, []byte("Subscribed (mid: ")) && !subscribed:
			subscribed = true
			close(c.subscribed)
		case bytes.HasPrefix(line, []byte("Received DISCONNECT (")):
			_, rest, _ := bytes.Cut(line, []byte("DISCONNECT ("))
			code, _, _ := bytes.Cut(rest, []byte(")"))
			n, _ := strconv.Atoi(string(code))
			c.reason <- byte(n)
		}
	}
}

// parseMosquitto reads the JSON object of a message.
func parseMosquitto(line []byte) (message, error) {
	var v struct {
		Topic      string          `json:"topic"`
		Payload    string          `json:"payload"`
		QoS        byte            `json:"qos"`
		Retain     int             `json:"retain"`
		Properties json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return message{}, err
	}
	var p struct {
		Format          int             `json:"payload-format-indicator"`
		Expiry          uint32          `json:"message-expiry-interval"`
		ContentType     string          `json:"content-type"`
		ResponseTopic   string          `json:"response-topic"`
		CorrelationData string          `json:"correlation-data"`
		SubscriptionID  uint32          `json:"subscription-identifier"`
		TopicAlias      uint16          `json:"topic-alias"`
		User            json.RawMessage `json:"user-properties"`
	}
	m := message{topic: v.Topic, payload: []byte(v.Payload), qos: v.QoS, retain: v.Retain == 1}
	if v.Properties == nil {
		return m, nil
	}
	if err := json.Unmarshal(v.Properties, &p); err != nil {
		return m, err
	}
	m.properties = properties{
		utf8: p.Format == 1, expiry: p.Expiry, contentType: p.ContentType, responseTopic: p.ResponseTopic,
		correlationData: p.CorrelationData, topicAlias: p.TopicAlias,
	}
	if p.SubscriptionID != 0 {
		m.properties.subscriptionIDs = []uint32{p.SubscriptionID}
	}
	user, err := orderedObject(p.User)
	m.properties.user = user
	return m, err
}

// orderedObject reads a JSON object in which a key may occur more than once.
func orderedObject(b []byte) (pairs []userProperty, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	var words []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if s, ok := token.(string); ok {
			words = append(words, s)
		}
	}
	for i := 0; i+1 < len(words); i += 2 {
		pairs = append(pairs, userProperty{words[i], words[i+1]})
	}
	return pairs, nil
}

// publish runs mosquitto_pub, which takes the payload from its standard input.
func (c *mosquitto) publish(m message) {
	c.t.Helper()
	host, port, _ := net.SplitHostPort(c.addr)
	args := []string{"-h", host, "-p", port, "-V", c.versionFlag(), "-t", m.topic, "-q", strconv.Itoa(int(m.qos)), "-i", brokertest.Name()}
	if m.retain {
		args = append(args, "-r")
	}
	if len(m.payload) > 0 {
		args = append(args, "-s")
	} else {
		args = append(args, "-n")
	}
	args = append(args, propertyFlags("publish", m.properties)...)
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	pub := exec.CommandContext(ctx, "mosquitto_pub", args...)
	pub.Stdin = bytes.NewReader(m.payload)
	if out, err := pub.CombinedOutput(); err != nil {
		c.t.Fatalf("mosquitto_pub %q: %v: %s", args, err, out)
	}
}

// propertyFlags are the flags for the properties of a message that goes with a command, publish or will.
func propertyFlags(command string, p properties) (args []string) {
	add := func(words ...string) { args = append(append(args, "-D", command), words...) }
	if p.utf8 {
		add("payload-format-indicator", "1")
	}
	if p.expiry > 0 {
		add("message-expiry-interval", strconv.Itoa(int(p.expiry)))
	}
	if p.contentType != "" {
		add("content-type", p.contentType)
	}
	if p.responseTopic != "" {
		add("response-topic", p.responseTopic)
	}
	if p.correlationData != "" {
		add("correlation-data", p.correlationData)
	}
	if p.topicAlias != 0 {
		add("topic-alias", strconv.Itoa(int(p.topicAlias)))
	}
	for _, u := range p.user {
		add("user-property", u.Key, u.Value)
	}
	return args
}

func (c *mosquitto) sessionPresent() (present, known bool) { return false, false }

// disconnect lets mosquitto_sub end: it sends DISCONNECT on SIGTERM, in 5.0 with Reason Code 0x04, which asks for the Will.
func (c *mosquitto) disconnect() {
	c.t.Helper()
	c.end(syscall.SIGTERM)
}

func (c *mosquitto) kill() { c.end(syscall.SIGKILL) }

func (c *mosquitto) end(s os.Signal) {
	c.t.Helper()
	if c.sub == nil {
		return
	}
	_ = c.sub.Process.Signal(s) // unless it has ended
	wait(c.t, c.exited, "end of mosquitto_sub")
	wait(c.t, c.gate.ended, "end of mosquitto_sub's connection")
}

func (c *mosquitto) closed() (reason byte) {
	c.t.Helper()
	wait(c.t, c.gate.ended, "end of mosquitto_sub's connection")
	if c.version == 5 {
		reason = wait(c.t, c.reason, "DISCONNECT for mosquitto_sub")
	}
	c.kill()
	return reason
}

// gate forwards one connection to a broker, and no second one.
type gate struct {
	addr  string
	ended chan struct{} // closed when either side has ended the connection
}

func openGate(t testing.TB, broker string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{addr: l.Addr().String(), ended: make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	go func() {
		defer close(g.ended)
		inside, err := l.Accept()
		l.Close()
		if err != nil {
			return
		}
		defer inside.Close()
		outside, err := net.Dial("tcp", broker)
		if err != nil {
			return
		}
		forward(inside, outside)
	}()
	return g
}

// forward copies both ways until both directions have ended.
func forward(inside, outside net.Conn) {
	defer inside.Close()
	defer outside.Close()
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{
		{inside.(*net.TCPConn), outside.(*net.TCPConn)},
		{outside.(*net.TCPConn), inside.(*net.TCPConn)},
	} {
		both.Go(func() {
			if _, err := io.Copy(way[1], way[0]); err != nil { // a reset; else the other side may still have something to say
				_ = way[0].Close()
				_ = way[1].Close()
				return
			}
			_ = way[1].CloseWrite()
		})
	}
	both.Wait()
}

// Mosquitto's JSON is read as it is written, so a test of the reader needs no broker.
func TestParseMosquitto(t *testing.T) {
	m, err := parseMosquitto([]byte(`{"topic":"a/b","qos":1,"retain":1,"payloadlen":1,"mid":1,"properties":{"subscription-identifier":42,` +
		`"user-properties":{"k1":"v1","k2":"v2","k1":"v3"},"content-type":"t","message-expiry-interval":60},"payload":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	expectProperties(t, m.properties, properties{
		expiry: 60, contentType: "t", subscriptionIDs: []uint32{42}, user: []userProperty{{"k1", "v1"}, {"k2", "v2"}, {"k1", "v3"}},
	})
	if got := strings.TrimSpace(m.String()); got != `"a/b": "x" (1 bytes), QoS 1, retain true` {
		t.Error(got)
	}
}
