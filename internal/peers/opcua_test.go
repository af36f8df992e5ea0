package peers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"loopmq"
	opcuabridge "loopmq/bridges/opcua"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/child"
	"loopmq/store"
	"loopmq/store/memory"
)

// opcuaServer is a server of node-opcua.
type opcuaServer struct {
	t       testing.TB
	options map[string]any
	process *child.Process
	stdin   io.WriteCloser
	lines   chan string
	cert    *x509.Certificate
}

// startOPCUA starts a server, which runs when the function that it returns has returned.
func startOPCUA(t testing.TB, options map[string]any) *opcuaServer {
	t.Helper()
	dir := t.TempDir()
	cert, _ := mustCertificate(t, dir, "server", "urn:test:server")
	s := &opcuaServer{t: t, options: map[string]any{
		"port": child.FreePort(), "pki": filepath.Join(dir, "pki"), "certificate": filepath.Join(dir, "server.pem"), "key": filepath.Join(dir, "server.key"),
	}, cert: cert}
	for k, v := range options {
		s.options[k] = v
	}
	s.start()
	t.Cleanup(func() { s.process.Kill() })
	return s
}

func (s *opcuaServer) start() {
	s.t.Helper()
	arguments, err := json.Marshal(s.options)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("node", "nodeopcua/server.js", string(arguments))
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	r, w := io.Pipe()
	cmd.Stdout = w
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if s.process, err = child.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	lines, process := make(chan string, 16), s.process
	s.lines = lines
	go func() {
		<-process.Ended
		_ = w.Close()
	}()
	go func() {
		defer close(lines)
		in := bufio.NewScanner(r)
		for in.Scan() {
			if strings.HasPrefix(in.Text(), `{"`) { // it has warnings of its own
				lines <- in.Text()
			}
		}
	}()
	if _, ok := <-lines; !ok { // as long as it takes to start: go test has a limit
		s.t.Fatalf("node-opcua ended: %s", stderr.String())
	}
}

// do has the server execute a command.
func (s *opcuaServer) do(command string, arguments ...any) any {
	s.t.Helper()
	c := map[string]any{"do": command}
	for i := 0; i < len(arguments); i += 2 {
		c[arguments[i].(string)] = arguments[i+1]
	}
	b, err := json.Marshal(c)
	if err == nil {
		_, err = s.stdin.Write(append(b, '\n'))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	var answer struct {
		Value any
		Error string
	}
	line := wait(s.t, s.lines, "node-opcua: "+command)
	if err := json.Unmarshal([]byte(line), &answer); err != nil || answer.Error != "" {
		s.t.Fatalf("node-opcua: %s: %s %v", command, line, err)
	}
	return answer.Value
}

func (s *opcuaServer) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.options["port"]) }

// mustCertificate makes a certificate of an application, and returns it with its key, which are files in dir too.
func mustCertificate(t testing.TB, dir, name, uri string) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{u}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".der"), der, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// cuttable is a TCP proxy that can be cut.
type cuttable struct {
	listener net.Listener
	to       string

	mu struct {
		sync.Mutex
		cut   bool
		conns []net.Conn
	}
}

func mustCuttable(t testing.TB, to string) *cuttable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cuttable{listener: listener, to: to}
	t.Cleanup(func() {
		_ = listener.Close()
		c.set(true)
	})
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			c.join(in)
		}
	}()
	return c
}

func (c *cuttable) join(in net.Conn) {
	out, err := net.Dial("tcp", c.to)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.mu.cut {
		_ = in.Close()
		if err == nil {
			_ = out.Close()
		}
		return
	}
	c.mu.conns = append(c.mu.conns, in, out)
	copyAll := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_, _ = to.Close(), from.Close()
	}
	go copyAll(in, out)
	go copyAll(out, in)
}

// set cuts all connections and keeps new ones away, or ends that.
func (c *cuttable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.cut = cut
	if !cut {
		return
	}
	for _, conn := range c.mu.conns {
		_ = conn.Close()
	}
	c.mu.conns = nil
}

// opcuaBroker is a broker whose store the bridge knows.
type opcuaBroker struct {
	*brokertest.Server
	store store.Store
}

func mustOPCUABroker(t testing.TB) opcuaBroker {
	st := memory.New(memory.Options{})
	t.Cleanup(func() { _ = st.Close() })
	return opcuaBroker{brokertest.Start(t, func(o *loopmq.Options) { o.Store = st }), st}
}

func mustOPCUA(t testing.TB, b opcuaBroker, endpoints ...*opcuabridge.Endpoint) *opcuabridge.Bridge {
	t.Helper()
	bridge, err := opcuabridge.New(opcuabridge.Options{Broker: b.Broker, Store: b.store, Endpoints: endpoints, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	bridge.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		bridge.Close(ctx)
	})
	return bridge
}

// mqttSide is a client that sees all topics.
type mqttSide struct {
	*brokertest.Client
	t testing.TB
}

func mustMQTTSide(t testing.TB, b opcuaBroker, filters ...string) *mqttSide {
	c := brokertest.Connect(t, b.Addr, codec.V5)
	c.SetTimeout(patience)
	for _, f := range filters {
		c.Subscribe(f, 1)
	}
	return &mqttSide{c, t}
}

// await receives messages until one for a topic passes a test, and returns the topics and payloads of all.
func (m *mqttSide) await(topic string, ok func(payload string) bool) (all []string) {
	m.t.Helper()
	for {
		p := brokertest.Expect[*codec.Publish](m.Client)
		m.Acknowledge(p)
		all = append(all, string(p.TopicName)+" "+string(p.Payload))
		if string(p.TopicName) == topic && ok(string(p.Payload)) {
			return all
		}
	}
}

// awaitAll receives messages until each of these is part of one, topic and payload.
func (m *mqttSide) awaitAll(parts ...string) {
	m.t.Helper()
	for len(parts) > 0 {
		p := brokertest.Expect[*codec.Publish](m.Client)
		m.Acknowledge(p)
		parts = slices.DeleteFunc(parts, func(part string) bool { return strings.Contains(string(p.TopicName)+" "+string(p.Payload), part) })
	}
}

func is(want string) func(string) bool { return func(got string) bool { return got == want } }

func has(parts ...string) func(string) bool {
	return func(got string) bool {
		for _, p := range parts {
			if !strings.Contains(got, p) {
				return false
			}
		}
		return true
	}
}

// command publishes a command and returns what came to its Response Topic.
func (m *mqttSide) command(topic, payload string) string {
	m.t.Helper()
	m.Publish(topic, payload, 1, func(p *codec.Publish) {
		p.Properties = brokertest.Properties(codec.PropResponseTopic, "reply", codec.PropCorrelationData, "7")
	})
	var reply string
	m.await("reply", func(payload string) bool {
		reply = payload
		return true
	})
	return reply
}

// Values become messages and messages are written; all goes on by itself after a cut, after the session was lost, and
// after the server was started again with its namespaces in another order.
func TestOPCUA(t *testing.T) {
	if brokertest.Outside() {
		t.Skip("needs a broker in this process")
	}
	t.Parallel()
	server := startOPCUA(t, nil)
	way := mustCuttable(t, server.addr())
	b := mustOPCUABroker(t)
	m := mustMQTTSide(t, b, "plant/#", "opcua/#", "reply")
	bridge := mustOPCUA(t, b, &opcuabridge.Endpoint{
		Name: "p1", URL: "opc.tcp://" + way.listener.Addr().String() + "/UA/Test",
		Namespaces: map[string]string{"p": "urn:plant"}, PublishingInterval: 20 * time.Millisecond, RetryMin: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond,
		RequestTimeout: 20 * time.Second,
		Mappings: []opcuabridge.Mapping{
			{Node: "ns=p;s=Temperature", Topic: "plant/{endpoint}/temperature", QoS: 1, Retain: true, Format: opcuabridge.FormatValue, Queue: 100},
			{Path: "/Objects/p:Plant/p:Boiler&/1/p:Pressure", Topic: "plant/{browse_path}", QoS: 1, Deadband: 1},
			{Tree: "nsu=urn:plant;s=Plant", Topic: "plant/tree/{browse_path}", WriteTopic: "set/{browse_path}", QoS: 1, Format: opcuabridge.FormatValue},
			{Node: "ns=p;s=Count", Topic: "plant/part14/{browse_name}", Format: opcuabridge.FormatPart14},
			{Node: "ns=p;s=Missing", Topic: "plant/missing"},
			{Node: "nsu=urn:none;s=Missing", Topic: "plant/none"},
		},
		Calls: []opcuabridge.Call{{Topic: "call/{endpoint}/add", Object: "ns=p;s=Plant", Method: "ns=p;s=Add"}},
	})
	m.await("opcua/p1/status", has(`"state":"connected"`, `"items":11,"failed":2`, "BadNodeIdUnknown", "no such namespace"))
	m.awaitAll("plant/tree/Boiler_1/Temperature 20.5", "plant/tree/Name one", "plant/tree/List [1,2,3]", "plant/tree/Big 7", "plant/tree/Open false", "plant/tree/Span 1",
		`plant/Plant/Boiler_1/Pressure {"endpoint":"p1","node_id":"nsu=urn:plant;s=Pressure","value":1.5,"type":"Float","status":"Good"`,
		`"MessageType":"ua-data","PublisherId":"p1","Messages":[{"DataSetWriterId":4`)

	t.Run("commands", func(t *testing.T) {
		for _, c := range []struct{ topic, payload, want string }{
			{"set/Boiler_1/Temperature", "30.25", `{"status":"Good","status_code":0}`},
			{"set/Count", "-12", `{"status":"Good","status_code":0}`},
			{"set/Count", "32768", `"BadOutOfRange"`},
			{"set/Count", "1.5", `"BadTypeMismatch"`},
			{"set/Name", "two", `"Good"`},
			{"set/List", "[4,5,6]", `"Good"`},
			{"set/Big", `18446744073709551615`, `"Good"`},
			{"set/Span", "2.5", `"Good"`},
			{"set/Nothing", "1", `"BadNodeIdUnknown"`},
			{"call/p1/add", "[1,2.5]", `{"status":"Good","status_code":0,"outputs":[3.5]}`},
			{"call/p1/add", `{"b":1,"a":2}`, `"outputs":[3]`},
			{"call/p1/add", `[1]`, `"BadArgumentsMissing"`},
			{"call/p1/add", `["x",1]`, `"BadTypeMismatch"`},
		} {
			if got := m.command(c.topic, c.payload); !strings.Contains(got, c.want) {
				t.Errorf("%s %s: %s, want %s", c.topic, c.payload, got, c.want)
			}
		}
		for name, want := range map[string]string{"Temperature": "30.25", "Count": "-12", "Name": "two", "List": "[4 5 6]", "Span": "2.5"} {
			if got := fmt.Sprint(server.do("get", "name", name)); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
	})

	t.Run("deadband", func(t *testing.T) {
		server.do("set", "name", "Pressure", "value", 2.25)
		server.do("set", "name", "Pressure", "value", 4)
		seen := m.await("plant/Plant/Boiler_1/Pressure", has(`"value":4,`))
		if strings.Contains(strings.Join(seen, "\n"), `Boiler_1/Pressure {"endpoint":"p1","node_id":"nsu=urn:plant;s=Pressure","value":2.25`) {
			t.Errorf("a change within the deadband was told: %q", seen)
		}
	})

	metrics := func() string {
		var text bytes.Buffer
		b.Broker.Metrics().WritePrometheus(&text)
		return text.String()
	}
	// The values of the subscription are missed by nobody, and the session is the same.
	t.Run("cut", func(t *testing.T) {
		way.set(true)
		m.await("opcua/p1/status", has(`"disconnected"`))
		if got := m.command("set/Count", "1"); !strings.Contains(got, "BadServerNotConnected") {
			t.Errorf("a command without a connection: %s", got)
		}
		for i := range 5 {
			server.do("set", "name", "Temperature", "value", 100+i)
		}
		way.set(false)
		m.awaitAll("plant/p1/temperature 104", `opcua/p1/status {"endpoint":"p1","state":"connected"`)
		if !strings.Contains(metrics(), `loopmq_opcua_connects_total{endpoint="p1",result="resumed"} 1`) {
			t.Error("the session was not resumed")
		}
		if n := server.do("sessions"); n != 1.0 {
			t.Errorf("%v sessions, want 1", n)
		}
	})

	t.Run("session lost", func(t *testing.T) {
		server.do("end")
		m.await("opcua/p1/status", has(`"disconnected"`))
		m.await("opcua/p1/status", has(`"connected"`, `"items":11`))
		server.do("set", "name", "Temperature", "value", 200)
		m.await("plant/p1/temperature", is("200"))
		server.do("set", "name", "Name", "value", "after")
		m.await("plant/tree/Name", is("after"))
	})

	t.Run("server restarted", func(t *testing.T) {
		server.process.Kill()
		m.await("opcua/p1/status", has(`"disconnected"`))
		server.options["before"] = []string{"urn:a", "urn:b"}
		server.start()
		m.await("opcua/p1/status", has(`"connected"`, `"items":11`))
		server.do("set", "name", "Temperature", "value", 300)
		m.await("plant/p1/temperature", is("300"))
		server.do("set", "name", "Open", "value", true)
		m.await("plant/tree/Open", is("true"))
		if got := m.command("set/Count", "7"); !strings.Contains(got, `"Good"`) {
			t.Errorf("a command: %s", got)
		}
	})

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	bridge.Close(ctx)
	m.await("opcua/p1/status", has(`"stopped"`))
	if n := server.do("sessions"); n != 0.0 {
		t.Errorf("%v sessions after Close, want 0", n)
	}
}

// Who is who is proven both ways.
func TestOPCUASecurity(t *testing.T) {
	if brokertest.Outside() {
		t.Skip("needs a broker in this process")
	}
	t.Parallel()
	dir := t.TempDir()
	cert, key := mustCertificate(t, dir, "client", "urn:loopmq:test")
	other, otherKey := mustCertificate(t, dir, "other", "urn:loopmq:other")
	server := startOPCUA(t, map[string]any{"username": "operator", "password": "secret", "trust": []string{filepath.Join(dir, "client.der")}})
	b := mustOPCUABroker(t)
	m := mustMQTTSide(t, b, "secure/#", "opcua/#")
	endpoint := func(name string, change func(*opcuabridge.Security)) *opcuabridge.Endpoint {
		e := &opcuabridge.Endpoint{
			Name: name, URL: "opc.tcp://" + server.addr() + "/UA/Test", PublishingInterval: 50 * time.Millisecond, RequestTimeout: 20 * time.Second, RetryMin: time.Minute,
			Security: opcuabridge.Security{
				Policy: opcuabridge.PolicyBasic256Sha256, Certificate: cert.Raw, Key: key, Trusted: []*x509.Certificate{server.cert}, Username: "operator", Password: "secret",
			},
			Mappings: []opcuabridge.Mapping{{Node: "nsu=urn:plant;s=Temperature", Topic: "secure/" + name, Format: opcuabridge.FormatValue}},
		}
		change(&e.Security)
		return e
	}
	for _, c := range []struct {
		name   string
		want   []string
		change func(*opcuabridge.Security)
	}{
		{"good", []string{`"connected"`}, func(*opcuabridge.Security) {}},
		{"signed", []string{`"connected"`}, func(s *opcuabridge.Security) { s.SignOnly = true }},
		{"aes256", []string{`"connected"`}, func(s *opcuabridge.Security) { s.Policy = opcuabridge.PolicyAes256Sha256RsaPss }},
		{"password", []string{`"disconnected"`, "activate the session"}, func(s *opcuabridge.Security) { s.Password = "wrong" }},
		{"anonymous", []string{`"disconnected"`, "doesn't take this kind of user"}, func(s *opcuabridge.Security) { s.Username = "" }},
		{"server", []string{`"disconnected"`, "certificate is not trusted"}, func(s *opcuabridge.Security) { s.Trusted = []*x509.Certificate{other} }},
		{"client", []string{`"disconnected"`}, func(s *opcuabridge.Security) { s.Certificate, s.Key = other.Raw, otherKey }},
	} {
		bridge := mustOPCUA(t, b, endpoint(c.name, c.change))
		m.await("opcua/"+c.name+"/status", func(payload string) bool {
			if has(`"connected"`)(payload) != (c.want[0] == `"connected"`) && !has(`"connecting"`)(payload) {
				t.Errorf("%s: %s, want %q", c.name, payload, c.want)
				return true
			}
			return has(c.want...)(payload)
		})
		if c.want[0] == `"connected"` {
			m.await("secure/"+c.name, is("20.5"))
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		bridge.Close(ctx)
		cancel()
	}
}
