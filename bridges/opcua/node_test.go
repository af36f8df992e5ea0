package opcuabridge_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"loopmq"
	opcuabridge "loopmq/bridges/opcua"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/opcuatest"
	"loopmq/metrics"
	"loopmq/store"
	"loopmq/store/memory"
)

// node is a broker, and what the bridge needs of it.
type node struct {
	*brokertest.Server
	store store.Store
}

func mustBroker(t testing.TB) node {
	t.Helper()
	if brokertest.Outside() {
		t.Skip("needs a broker in this process")
	}
	st := memory.New(memory.Options{})
	t.Cleanup(func() { _ = st.Close() })
	return node{brokertest.Start(t, func(o *loopmq.Options) { o.Store = st }), st}
}

func mustServe(t testing.TB, n node, endpoints ...*opcuabridge.Endpoint) *opcuabridge.Bridge {
	t.Helper()
	bridge, err := opcuabridge.New(opcuabridge.Options{Broker: n.Broker, Store: n.store, Endpoints: endpoints, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	bridge.Start()
	t.Cleanup(func() { closeBridge(bridge) })
	return bridge
}

// metricOf returns the value of a metric, as text; empty: there is none.
func metricOf(set *metrics.Set, name string) string {
	var text bytes.Buffer
	set.WritePrometheus(&text)
	for line := range strings.Lines(text.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// watcher is a client that sees messages, and commands nodes.
type watcher struct {
	*brokertest.Client
	t testing.TB
}

func mustWatch(t testing.TB, n node, filters ...string) *watcher {
	t.Helper()
	c := brokertest.Connect(t, n.Addr, codec.V5)
	c.SetTimeout(patience)
	for _, f := range filters {
		c.Subscribe(f, 1)
	}
	return &watcher{c, t}
}

// await receives messages until one for a topic passes a test, and returns the topics and payloads of all.
func (w *watcher) await(topic string, ok func(payload string) bool) (all []string) {
	w.t.Helper()
	for {
		p := brokertest.Expect[*codec.Publish](w.Client)
		w.Acknowledge(p)
		all = append(all, string(p.TopicName)+" "+string(p.Payload))
		if string(p.TopicName) == topic && ok(string(p.Payload)) {
			return all
		}
	}
}

// awaitAll receives messages until each of these is part of one, topic and payload.
func (w *watcher) awaitAll(parts ...string) {
	w.t.Helper()
	for len(parts) > 0 {
		p := brokertest.Expect[*codec.Publish](w.Client)
		w.Acknowledge(p)
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
func (w *watcher) command(topic, payload string) string {
	w.t.Helper()
	w.Publish(topic, payload, 1, func(p *codec.Publish) {
		p.Properties = brokertest.Properties(codec.PropResponseTopic, "reply", codec.PropCorrelationData, "7")
	})
	var reply string
	w.await("reply", func(payload string) bool {
		reply = payload
		return true
	})
	return reply
}

// endpoint is one for a server of opcuatest, at addr, with a mapping of each kind.
func endpoint(addr string) *opcuabridge.Endpoint {
	return &opcuabridge.Endpoint{
		Name: "p1", URL: opcuatest.URL(addr), Namespaces: map[string]string{"p": "urn:plant"},
		PublishingInterval: 20 * time.Millisecond, RetryMin: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond, RequestTimeout: 20 * time.Second,
		SessionTimeout: 10 * time.Minute, // however slow the machine is
		Mappings: []opcuabridge.Mapping{
			{Node: "ns=p;s=Temperature", Topic: "plant/{endpoint}/temperature", QoS: 1, Retain: true, Format: opcuabridge.FormatValue, Queue: 100},
			{Path: "/Objects/p:Plant/p:Boiler&/1/p:Pressure", Topic: "plant/{browse_path}", QoS: 1, Deadband: 1},
			{Tree: "nsu=urn:plant;s=Plant", Topic: "plant/tree/{browse_path}", WriteTopic: "set/{browse_path}", QoS: 1, Format: opcuabridge.FormatValue},
			{Node: "ns=p;s=Count", Topic: "plant/part14/{browse_name}", Format: opcuabridge.FormatPart14},
			{Node: "ns=p;s=Missing", Topic: "plant/missing"},
			{Node: "nsu=urn:none;s=Missing", Topic: "plant/none"},
		},
		Calls: []opcuabridge.Call{{Topic: "call/{endpoint}/add", Object: "ns=p;s=Plant", Method: "ns=p;s=Add"}},
	}
}

// allItems is what the status says when all of endpoint's items are monitored.
var allItems = has(`"state":"connected"`, `"items":11,"failed":2`, "BadNodeIdUnknown", "no such namespace")

// returns is a server that is served, to be taken away and given back.
type returns struct {
	*watcher
	node
	server *opcuatest.Server
	way    *opcuatest.Proxy
}

func mustReturn(t *testing.T) *returns {
	t.Helper()
	r := &returns{node: mustBroker(t), server: opcuatest.Start(t, nil)}
	r.way = opcuatest.MustProxy(t, r.server.Addr())
	r.watcher = mustWatch(t, r.node, "plant/#", "opcua/#", "reply")
	mustServe(t, r.node, endpoint(r.way.Addr()))
	r.await("opcua/p1/status", allItems)
	r.awaitAll("plant/p1/temperature 20.5", "plant/tree/Name one")
	return r
}

// connects is how often there was a connection, by what came of it.
func (r *returns) connects(result string) string {
	return metricOf(r.Broker.Metrics(), `loopmq_opcua_connects_total{endpoint="p1",result="`+result+`"}`)
}

// allGoesOn is what holds after each return: values of each subscription come, and a command is executed.
func (r *returns) allGoesOn() {
	t := r.t
	t.Helper()
	r.server.Do("set", "name", "Temperature", "value", 200)
	r.await("plant/p1/temperature", is("200"))
	r.server.Do("set", "name", "Name", "value", "after")
	r.await("plant/tree/Name", is("after"))
	if got := r.command("set/Count", "7"); !strings.Contains(got, `"Good"`) {
		t.Errorf("a command afterwards: %s", got)
	}
}

// Values become messages, and messages write variables and call methods.
func TestValuesAndCommands(t *testing.T) {
	t.Parallel()
	n := mustBroker(t)
	server := opcuatest.Start(t, nil)
	m := mustWatch(t, n, "plant/#", "opcua/#", "reply")
	bridge := mustServe(t, n, endpoint(server.Addr()))
	m.await("opcua/p1/status", allItems)
	m.awaitAll("plant/tree/Boiler_1/Temperature 20.5", "plant/tree/Name one", "plant/tree/List [1,2,3]", "plant/tree/Big 7", "plant/tree/Open false", "plant/tree/Span 1",
		`plant/Plant/Boiler_1/Pressure {"endpoint":"p1","node_id":"nsu=urn:plant;s=Pressure","value":1.5,"type":"Float","status":"Good"`,
		`"MessageType":"ua-data","PublisherId":"p1","Messages":[{"DataSetWriterId":4`)

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
		{"call/p1/add", `{"b":1,"c":2}`, `"BadArgumentsMissing"`},
		{"call/p1/add", `{"b":1,"a":2,"c":3}`, `"BadTooManyArguments"`},
		{"call/p1/add", `[1]`, `"BadArgumentsMissing"`},
		{"call/p1/add", `[1,2,3]`, `"BadTooManyArguments"`},
		{"call/p1/add", `["x",1]`, `"BadTypeMismatch"`},
		{"call/p1/add", `7`, `"BadDecodingError"`},
	} {
		if got := m.command(c.topic, c.payload); !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %s, want %s", c.topic, c.payload, got, c.want)
		}
	}
	for name, want := range map[string]string{"Temperature": "30.25", "Count": "-12", "Name": "two", "List": "[4 5 6]", "Span": "2.5"} {
		if got := fmt.Sprint(server.Do("get", "name", name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}

	server.Do("set", "name", "Pressure", "value", 2.25)
	server.Do("set", "name", "Pressure", "value", 4)
	seen := m.await("plant/Plant/Boiler_1/Pressure", has(`"value":4,`))
	if strings.Contains(strings.Join(seen, "\n"), `Boiler_1/Pressure {"endpoint":"p1","node_id":"nsu=urn:plant;s=Pressure","value":2.25`) {
		t.Errorf("a change within the deadband was told: %q", seen)
	}

	closeBridge(bridge)
	m.await("opcua/p1/status", has(`"stopped"`))
	for deadline := time.Now().Add(20 * time.Second); server.Do("sessions") != 0.0; { // it may still be at the CloseSession
		if time.Now().After(deadline) {
			t.Fatal("there are sessions after Close")
		}
	}
}

// The connection is cut, and the server keeps the session: it goes on, and no value is missing, be it one that was sent
// and got lost, or one of the time without a connection.
func TestSessionAlive(t *testing.T) {
	t.Parallel()
	r := mustReturn(t)
	r.way.Mute()
	r.server.Do("set", "name", "Temperature", "value", 99)
	select { // the notification
	case <-r.way.Swallowed:
	case <-time.After(patience):
		t.Fatal("the server sends nothing")
	}
	r.way.Cut()
	r.way.Mend()
	r.await("plant/p1/temperature", is("99"))

	r.way.Cut()
	r.await("opcua/p1/status", has(`"disconnected"`))
	if got := r.command("set/Count", "1"); !strings.Contains(got, "BadServerNotConnected") {
		t.Errorf("a command without a connection: %s", got)
	}
	for i := range 5 {
		r.server.Do("set", "name", "Temperature", "value", 100+i)
		for begun := time.Now(); r.server.Do("queued", "name", "Temperature", "value", 100+i) != true; { // else it sees the last of them only
			if time.Since(begun) > patience {
				t.Fatalf("the server doesn't queue value %d", i)
			}
		}
	}
	r.way.Mend()
	var got []string
	for _, m := range r.await("plant/p1/temperature", is("104")) {
		if value, ok := strings.CutPrefix(m, "plant/p1/temperature "); ok {
			got = append(got, value)
		}
	}
	if got[0] == "99" { // what is acknowledged late comes again
		got = got[1:]
	}
	if want := []string{"100", "101", "102", "103", "104"}; !slices.Equal(got, want) {
		t.Errorf("values %v, want %v", got, want)
	}
	r.allGoesOn()
	if resumed, fresh := r.connects("resumed"), r.connects("new_session"); resumed != "2" || fresh != "1" {
		t.Errorf("%s sessions resumed, and %s made, want 2 and 1", resumed, fresh)
	}
	if n := r.server.Do("sessions"); n != 1.0 {
		t.Errorf("%v sessions, want 1", n)
	}
}

// The server forgets the session: there is another one, with all items.
func TestSessionLost(t *testing.T) {
	t.Parallel()
	r := mustReturn(t)
	r.way.Cut()
	r.await("opcua/p1/status", has(`"disconnected"`))
	r.server.Do("end")
	r.server.Do("set", "name", "Temperature", "value", 150)
	r.way.Mend()
	r.await("plant/p1/temperature", is("150")) // each item begins with its value
	r.allGoesOn()
	if resumed, fresh := r.connects("resumed"), r.connects("new_session"); resumed != "0" || fresh != "2" {
		t.Errorf("%s sessions resumed, and %s made, want 0 and 2", resumed, fresh)
	}

	// So it is when the connection stays.
	r.server.Do("end")
	r.await("opcua/p1/status", allItems)
	r.server.Do("set", "name", "Temperature", "value", 160)
	r.await("plant/p1/temperature", is("160"))
}

// The server is killed and started again, and numbers its namespaces in another way: all items are back.
func TestServerRestarted(t *testing.T) {
	t.Parallel()
	r := mustReturn(t)
	r.server.Kill()
	r.await("opcua/p1/status", has(`"disconnected"`))
	r.server.Options["before"] = []string{"urn:a", "urn:b"}
	r.server.Restart()
	r.await("opcua/p1/status", allItems)
	r.allGoesOn()
	if fresh := r.connects("new_session"); fresh != "2" {
		t.Errorf("%s sessions made, want 2", fresh)
	}
}

// Who is who is proven both ways.
func TestSecurity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := opcuatest.MustCertificate(t, dir, "client", "urn:loopmq:test")
	other, otherKey := opcuatest.MustCertificate(t, dir, "other", "urn:loopmq:other")
	server := opcuatest.Start(t, map[string]any{"username": "operator", "password": "secret", "trust": []string{filepath.Join(dir, "client.der")}})
	b := mustBroker(t)
	m := mustWatch(t, b, "secure/#", "opcua/#")
	endpoint := func(name string, change func(*opcuabridge.Security)) *opcuabridge.Endpoint {
		e := &opcuabridge.Endpoint{
			Name: name, URL: opcuatest.URL(server.Addr()), PublishingInterval: 50 * time.Millisecond, RequestTimeout: 20 * time.Second, RetryMin: time.Minute,
			Security: opcuabridge.Security{
				Policy: opcuabridge.PolicyBasic256Sha256, Certificate: cert.Raw, Key: key, Trusted: []*x509.Certificate{server.Certificate}, Username: "operator", Password: "secret",
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
		bridge := mustServe(t, b, endpoint(c.name, c.change))
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
		closeBridge(bridge)
	}
}
