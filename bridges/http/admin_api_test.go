package httpbridge

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/openapitest"
	"loopmq/store"
	"loopmq/store/memory"
	"loopmq/webhooks"
)

// apiFixture is the API of a real broker with webhooks and bans. Each request and answer
// is held to the document.
type apiFixture struct {
	*fixture
	document *openapitest.Document
	broker   *brokertest.Server
}

func mustServeAPI(t *testing.T, options func(*AdminOptions)) *apiFixture {
	t.Helper()
	gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	t.Cleanup(gone.Close)
	endpoints := []*webhooks.Endpoint{{Name: "orders", URL: gone.URL, AllowPlainHTTP: true, AllowPrivate: true, Events: []string{"message.published"}, TopicFilters: []string{"orders/#"}}}
	st := memory.New(memory.Options{})
	hooks, err := webhooks.New(webhooks.Options{Store: st, Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	b := brokertest.Start(t, func(o *loopmq.Options) {
		o.Store, o.SysInterval, o.Recorder = st, 100*time.Millisecond, webhooks.NewMatcher(endpoints).Recorder()
	})
	hooks.Start()
	t.Cleanup(func() { hooks.Close(context.WithoutCancel(t.Context())) })
	// An endpoint that was configured once.
	if err := st.Outbox().Disable(t.Context(), "former", "it is gone"); err != nil {
		t.Fatal(err)
	}
	f := &apiFixture{broker: b}
	f.fixture = mustStartWith(t, func(o *AdminOptions) {
		o.Webhooks = func() *webhooks.Webhooks { return hooks }
		o.Bans = (&banList{}).functions()
		if options != nil {
			options(o)
		}
	}, nil)
	f.fixture.broker.Store(b.Broker)
	if f.document, err = openapitest.Parse(openAPI); err != nil {
		t.Fatal(err)
	}
	return f
}

// ask sends a request, with the given header lines.
func (f *apiFixture) ask(t *testing.T, method, path, body string, header ...string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if r.Header.Set(name, value); name == "Host" {
			r.Host = value
		}
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.document.Check(r, []byte(body), resp.StatusCode, resp.Header, text); err != nil {
		t.Error(err)
	}
	return resp.StatusCode, string(text)
}

// want asks, and complains unless the status is the one and each part is in the answer.
func (f *apiFixture) want(t *testing.T, status int, method, path, body string, parts ...string) string {
	t.Helper()
	got, text := f.ask(t, method, path, body)
	if got != status {
		t.Errorf("%s %s %s: %d %s, want %d", method, path, body, got, text, status)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s %s: %s, want %s in it", method, path, text, part)
		}
	}
	return text
}

// What is there is listed, shown and changed, and each answer that the document has was
// seen, but for those that TestRoles and others see.
func TestAPI(t *testing.T) {
	f := mustServeAPI(t, nil)
	pump := brokertest.Connect(t, f.broker.Addr, codec.V5, brokertest.Durable("pump/7"))
	pump.Subscribe("a/+", 1)
	pump.Subscribe("$share/g/b", 0)
	other := brokertest.Connect(t, f.broker.Addr, codec.V311, brokertest.ClientID("other"))
	other.Publish("a//b", "hello", 1, brokertest.Retained)
	if _, err := f.broker.Broker.Publish(t.Context(), loopmq.Message{
		TopicName: "bytes", Payload: []byte{0xff}, Retain: true, QoS: 1, ContentType: "x/y", CorrelationData: []byte{1, 0xfe},
		UserProperties: []loopmq.UserProperty{{Key: "k", Value: "v"}, {Key: "k", Value: "w"}},
	}); err != nil {
		t.Fatal(err)
	}

	f.want(t, 200, "GET", "/api/v1/openapi.json", "")
	f.want(t, 200, "GET", "/api/v1/clients", "", `"client_id":"other"`, `"protocol":"5.0"`, `"connected":true`)
	f.want(t, 200, "GET", "/api/v1/clients?limit=1&client_id_prefix=p&address=127.0.0.0/8&node=x", "", `{"items":[]}`)
	if text := f.want(t, 200, "GET", "/api/v1/clients?limit=1&client_id_prefix=p&client_id_contains=ump&address=127.0.0.1", "", `"pump/7"`); strings.Contains(text, "other") {
		t.Errorf("the filter lets through %s", text)
	}
	f.want(t, 200, "GET", "/api/v1/clients/pump%2F7", "", `"durable":true`, `"queue":{"messages":0,"bytes":0}`)
	f.want(t, 200, "GET", "/api/v1/clients/pump%2F7/subscriptions", "", `"topic_filter":"$share/g/b","qos":0`, `"topic_filter":"a/+","qos":1`)
	f.want(t, 200, "GET", "/api/v1/subscriptions?topic=a/x&limit=1", "", `{"items":[{"client_id":"pump/7","topic_filter":"a/+"`)
	f.want(t, 200, "GET", "/api/v1/subscriptions?client_id=pump/7&topic_filter=none", "", `{"items":[]}`)
	f.want(t, 200, "GET", "/api/v1/sessions?connected=true", "", `"pump/7"`)
	f.want(t, 200, "GET", "/api/v1/sessions?connected=false", "", `{"items":[]}`)
	f.want(t, 200, "GET", "/api/v1/sessions/pump%2F7", "", `"durable":true`)
	f.want(t, 200, "GET", "/api/v1/retained", "", `{"topic":"a//b","qos":1,"bytes":5,`, `"topic":"bytes"`)
	f.want(t, 200, "GET", "/api/v1/retained?topic_filter=a/%23", "", `"a//b"`)
	f.want(t, 200, "GET", "/api/v1/retained/a//b", "", `"payload":"hello","payload_encoding":"plain"`)
	f.want(t, 200, "GET", "/api/v1/retained/a%2F%2Fb", "", `"publisher":"other"`)
	f.want(t, 200, "GET", "/api/v1/retained/bytes", "", `"payload":"/w==","payload_encoding":"base64"`, `"user_properties":[["k","v"],["k","w"]]`,
		`"correlation_data":"Af4=","correlation_data_encoding":"base64"`, `"content_type":"x/y"`)
	f.want(t, 204, "POST", "/api/v1/bans", `{"kind":"address","value":"198.51.100.0/24","until":"2126-12-31T00:00:00Z"}`)
	f.want(t, 200, "GET", "/api/v1/bans", "", `"198.51.100.0/24"`)
	f.want(t, 204, "DELETE", "/api/v1/bans/address/198.51.100.0/24", "")
	f.want(t, 200, "GET", "/api/v1/counters", "", `"loopmq_messages_received_total":`)

	// Wrong requests.
	for _, path := range []string{"/clients?limit=0", "/clients?address=x", "/clients/x/subscriptions?limit=x", "/subscriptions?cursor=x", "/sessions?connected=perhaps", "/retained?topic_filter=a%23", "/bans?clientid=x", "/webhooks/orders/dead?cursor=x", "/webhooks/orders/dead/x"} {
		f.want(t, 400, "GET", "/api/v1"+path, "", `"detail":`)
	}
	for _, path := range []string{"/clients/x", "/clients/x/subscriptions", "/subscriptions?client_id=x", "/sessions/x", "/retained/x", "/webhooks/x", "/webhooks/x/dead", "/webhooks/x/dead/1-1", "/webhooks/orders/dead/1-1"} {
		f.want(t, 404, "GET", "/api/v1"+path, "", `"detail":`)
	}
	for _, path := range []string{"/clients/x", "/sessions/x", "/retained/x", "/bans/address/x", "/nodes/x/drain", "/webhooks/x"} {
		f.want(t, 404, "DELETE", "/api/v1"+path, "", `"detail":`)
	}
	f.want(t, 404, "DELETE", "/api/v1/bans/color/red", "", "not banned")
	for path, body := range map[string]string{"/nodes/x/drain": "", "/webhooks/x/enable": "", "/webhooks/x/disable": "", "/webhooks/x/dead/replay": `{"all":true}`, "/webhooks/x/dead/drop": `{"ids":["1-1"]}`} {
		f.want(t, 404, "POST", "/api/v1"+path, body, `"detail":`)
	}
	bodies := map[string]string{"/bans": `{"kind":"x"`, "/nodes/x/drain": `{"wait":"long"}`, "/webhooks/orders/disable": `{"raison":"x"}`, "/webhooks/orders/dead/replay": `{}`, "/webhooks/orders/dead/drop": `{"all":true,"ids":["1-1"]}`}
	for path, body := range bodies {
		f.want(t, 400, "POST", "/api/v1"+path, body, `"detail":`)
		f.want(t, 413, "POST", "/api/v1"+path, `{"reason":"`+strings.Repeat("x", adminBodyBytesMax)+`"}`, `"detail":`)
		if status, text := f.ask(t, "POST", "/api/v1"+path, body, "Content-Type: text/plain"); status != 415 {
			t.Errorf("%s as text: %d %s", path, status, text)
		}
	}
	f.want(t, 400, "POST", "/api/v1/nodes/x/drain", `{"rate":-1}`, "rate")
	f.want(t, 400, "POST", "/api/v1/webhooks/orders/dead/drop", `{"ids":["x"]}`, "dead letter")
	f.want(t, 400, "POST", "/api/v1/bans", `{"kind":"username","value":"x"} {}`, "behind")

	// Webhooks: the receiver answers 418, so the events are dead letters at once.
	for range 2 {
		other.Publish("orders/1", "x", 1)
	}
	for late := time.Now().Add(time.Minute); !strings.Contains(f.want(t, 200, "GET", "/api/v1/webhooks/orders", ""), `"dead":2`); {
		if time.Now().After(late) {
			t.Fatal("no dead letters")
		}
	}
	f.want(t, 200, "GET", "/api/v1/webhooks", "", `"name":"orders"`, `"matched":2`, `"name":"former"`)
	var dead page[deadLetter]
	if err := json.Unmarshal([]byte(f.want(t, 200, "GET", "/api/v1/webhooks/orders/dead?limit=1", "", `"status":418`)), &dead); err != nil || dead.Next == "" || len(dead.Items) != 1 {
		t.Fatalf("got %+v, %v", dead, err)
	}
	f.want(t, 200, "GET", "/api/v1/webhooks/orders/dead?cursor="+dead.Next, "", `"status":418`)
	f.want(t, 200, "GET", "/api/v1/webhooks/orders/dead/"+dead.Items[0].ID, "", `"type":"`, `"orders/1"`)
	f.want(t, 204, "POST", "/api/v1/webhooks/orders/disable", `{"reason":"a fire"}`)
	f.want(t, 200, "GET", "/api/v1/webhooks/orders", "", `"state":"disabled","disabled_reason":"a fire"`)
	f.want(t, 200, "POST", "/api/v1/webhooks/orders/dead/replay", `{"ids":["`+dead.Items[0].ID+`"]}`, `{"count":1}`)
	f.want(t, 200, "POST", "/api/v1/webhooks/orders/dead/drop", `{"all":true}`, `{"count":1}`)
	f.want(t, 204, "POST", "/api/v1/webhooks/orders/disable", "")
	f.want(t, 204, "POST", "/api/v1/webhooks/orders/enable", "")
	f.want(t, 409, "DELETE", "/api/v1/webhooks/orders", "", "in use")
	f.want(t, 204, "DELETE", "/api/v1/webhooks/former", "")

	// Changes.
	for status := 404; status == 404; { // until it is published
		status, _ = f.ask(t, "GET", "/api/v1/retained/$SYS%2Fbroker%2Fversion", "")
	}
	f.want(t, 400, "DELETE", "/api/v1/retained/$SYS/broker/version", "", "the broker's own")
	f.want(t, 204, "DELETE", "/api/v1/retained/bytes", "")
	f.want(t, 404, "GET", "/api/v1/retained/bytes", "")
	f.want(t, 204, "DELETE", "/api/v1/clients/other", "")
	other.ExpectClosed()
	f.want(t, 204, "DELETE", "/api/v1/sessions/pump%2F7", "")
	if d := brokertest.Expect[*codec.Disconnect](pump); d.ReasonCode != codec.AdministrativeAction {
		t.Errorf("got %v", d)
	}
	f.want(t, 404, "GET", "/api/v1/sessions/pump%2F7", "")
	var nodes page[loopmq.NodeStatus]
	if err := json.Unmarshal([]byte(f.want(t, 200, "GET", "/api/v1/nodes", "", `"self":true`)), &nodes); err != nil {
		t.Fatal(err)
	}
	node := nodes.Items[0].Node
	f.want(t, 204, "POST", "/api/v1/nodes/"+node+"/drain", `{"wait":"1h","rate":10,"server_reference":"other:1883"}`)
	f.want(t, 200, "GET", "/api/v1/nodes", "", `"state":"draining"`)
	f.want(t, 204, "DELETE", "/api/v1/nodes/"+node+"/drain", "")
	f.want(t, 200, "GET", "/api/v1/nodes", "", `"state":"serving"`)

	without := mustServeAPI(t, func(o *AdminOptions) { o.Webhooks, o.Bans = nil, nil })
	without.document = f.document
	without.want(t, 404, "GET", "/api/v1/webhooks", "", "no webhooks")
	without.want(t, 404, "GET", "/api/v1/bans", "", "no bans")
	without.want(t, 404, "POST", "/api/v1/bans", `{"kind":"username","value":"x"}`, "no bans")

	if unseen := f.document.Unseen("200", "204", "400", "404", "409", "413", "415"); len(unseen) > 0 {
		t.Errorf("the document has answers that nothing has shown: %s", strings.Join(unseen, ", "))
	}
	if log := f.log.String(); !strings.Contains(log, "msg=admin_write actor=local") || !strings.Contains(log, "path=/api/v1/bans status=204 kind=address value=198.51.100.0/24") {
		t.Errorf("the log doesn't say who did what: %s", log)
	}
}

// The document and the routes have the same operations.
func TestAPIDocument(t *testing.T) {
	d, err := openapitest.Parse(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	routes := map[string]bool{}
	for _, r := range (&Admin{}).apiRoutes() {
		routes[r.method+" "+strings.ReplaceAll(r.pattern, "...}", "}")] = true
	}
	for _, operation := range d.Operations() {
		if !routes[operation] {
			t.Errorf("%s is in the document only", operation)
		}
		delete(routes, operation)
	}
	for operation := range routes {
		t.Errorf("%s isn't in the document", operation)
	}
}

// Each operation takes the role that the document says.
func TestRoles(t *testing.T) {
	reader, r := NewToken("dashboard", RoleRead)
	writer, w := NewToken("alice", RoleWrite)
	f := mustServeAPI(t, func(o *AdminOptions) { o.Access = Access{Tokens: []Token{r, w}} })
	var roles struct {
		Paths map[string]map[string]struct {
			Role string `json:"x-role"`
		}
	}
	if err := json.Unmarshal(openAPI, &roles); err != nil {
		t.Fatal(err)
	}
	for _, operation := range f.document.Operations() {
		method, pattern, _ := strings.Cut(operation, " ")
		role := roles.Paths[pattern][strings.ToLower(method)].Role
		path := strings.NewReplacer("{kind}", "address", "{", "", "}", "").Replace(pattern)
		if pattern == "/api/v1/openapi.json" {
			if status, _ := f.ask(t, method, path, ""); status != 200 {
				t.Errorf("%s: %d", operation, status)
			}
			continue
		}
		if status, _ := f.ask(t, method, path, ""); status != 401 {
			t.Errorf("%s without a token: %d, want 401", operation, status)
		}
		if status, _ := f.ask(t, method, path, "", "Authorization: Basic "+reader); status != 401 {
			t.Errorf("%s with another scheme: %d, want 401", operation, status)
		}
		f.failures = newFailures() // or it would soon be 429
		want := 403
		if role == "read" {
			want = 0
		}
		if status, text := f.ask(t, method, path, "", "Authorization: Bearer "+reader); status == 401 || (status == 403) != (want == 403) {
			t.Errorf("%s with the role read: %d %s", operation, status, text)
		}
		if status, text := f.ask(t, method, path, "", "Authorization: bearer "+writer); status == 401 || status == 403 {
			t.Errorf("%s with the role write: %d %s", operation, status, text)
		}
	}
	if unseen := f.document.Unseen("401"); len(unseen) > 0 {
		t.Errorf("not shown: %s", unseen)
	}
	if log := f.log.String(); strings.Contains(log, reader) || strings.Contains(log, writer) || !strings.Contains(log, `actor="token alice"`) {
		t.Errorf("the log has a token, or nobody's name: %s", log)
	}
	// Metrics and health take the role read as well, unless they are open.
	for _, path := range []string{"/metrics", "/health"} {
		if resp, _ := f.do(t, "GET", path); resp.StatusCode != 401 {
			t.Errorf("%s: %s, want 401", path, resp.Status)
		}
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if resp, _ := f.do(t, "GET", path); resp.StatusCode != 200 {
			t.Errorf("%s: %s, want 200", path, resp.Status)
		}
	}
	f.SetAccess(Access{Tokens: []Token{r}, OpenMonitoring: true})
	if resp, _ := f.do(t, "GET", "/metrics"); resp.StatusCode != 200 {
		t.Errorf("open: %s", resp.Status)
	}
	if status, _ := f.ask(t, "GET", "/api/v1/clients", "", "Authorization: Bearer "+writer); status != 401 {
		t.Errorf("a token that was taken back: %d", status)
	}
	f.SetAccess(Access{Required: true})
	if status, _ := f.ask(t, "GET", "/api/v1/clients", "", "Authorization: Bearer "+reader); status != 401 {
		t.Errorf("with an empty token file: %d", status)
	}
	f.SetAccess(Access{APIOff: true})
	if resp, _ := f.do(t, "GET", "/api/v1/clients"); resp.StatusCode != 404 {
		t.Errorf("without an API: %s", resp.Status)
	}
}

// After some wrong tokens an address has to wait, and others don't.
func TestWrongTokensAreSlow(t *testing.T) {
	secret, token := NewToken("a", RoleWrite)
	f := mustServeAPI(t, func(o *AdminOptions) { o.Access = Access{Tokens: []Token{token}} })
	for i := range failuresAtOnce {
		if status, _ := f.ask(t, "GET", "/api/v1/nodes", "", "Authorization: Bearer wrong"); status != 401 {
			t.Fatalf("token %d: %d", i, status)
		}
	}
	for _, token := range []string{"wrong", secret} {
		if status, text := f.ask(t, "GET", "/api/v1/nodes", "", "Authorization: Bearer "+token); status != 429 {
			t.Errorf("%d %s, want 429", status, text)
		}
	}
	r := httptest.NewRequest("GET", "http://localhost/api/v1/nodes", nil)
	r.RemoteAddr = "[2001:db8::1]:1234"
	r.Header.Set("Authorization", "Bearer "+secret)
	w := httptest.NewRecorder()
	if f.ServeHTTP(w, r); w.Code != 200 {
		t.Errorf("another address: %d %s", w.Code, w.Body)
	}
	if got := f.failures.wait(addressOf(&http.Request{RemoteAddr: "127.0.0.1:1"}), time.Now().Add(failuresEvery)); got != 0 {
		t.Errorf("it has to wait %v for one more", got)
	}
}

// What a browser is made to send by a page of another site.
func TestPagesOfOtherSites(t *testing.T) {
	f := mustServeAPI(t, func(o *AdminOptions) { o.Access = Access{Hosts: []string{"admin.example.com"}} })
	for _, c := range []struct {
		method, path string
		status       int
		header       []string
	}{
		{"GET", "/api/v1/nodes", 200, nil},
		{"GET", "/api/v1/nodes", 200, []string{"Host: localhost:1"}},
		{"GET", "/api/v1/nodes", 200, []string{"Host: [::1]:8081"}},
		{"GET", "/api/v1/nodes", 200, []string{"Host: 192.0.2.1"}},
		{"GET", "/api/v1/nodes", 200, []string{"Host: Admin.example.com:80"}},
		{"GET", "/api/v1/nodes", 403, []string{"Host: evil.example.com"}},
		{"GET", "/api/v1/nodes", 403, []string{"Host: localhost.example.com"}},
		{"DELETE", "/api/v1/clients/x", 404, nil},
		{"DELETE", "/api/v1/clients/x", 404, []string{"Sec-Fetch-Site: same-origin"}},
		{"DELETE", "/api/v1/clients/x", 403, []string{"Sec-Fetch-Site: cross-site"}},
		{"DELETE", "/api/v1/clients/x", 403, []string{"Origin: https://evil.example.com"}},
		{"POST", "/api/v1/webhooks/x/enable", 403, []string{"Origin: https://evil.example.com"}},
	} {
		if status, text := f.ask(t, c.method, c.path, "", c.header...); status != c.status {
			t.Errorf("%s %s with %q: %d %s, want %d", c.method, c.path, c.header, status, text, c.status)
		}
	}
	if resp, _ := f.do(t, "GET", "/metrics"); resp.StatusCode != 200 {
		t.Errorf("metrics: %s", resp.Status)
	}
	var text bytes.Buffer
	f.set.WritePrometheus(&text)
	for _, want := range []string{`loopmq_admin_refused_total{reason="host"} 2`, `loopmq_admin_refused_total{reason="origin"} 3`} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

// A listener that others reach has no API for those who don't say who they are.
func TestAPIOffLoopback(t *testing.T) {
	f := mustServeAPI(t, nil)
	f.loopback.Store(false)
	if status, _ := f.ask(t, "GET", "/api/v1/nodes", ""); status != 401 {
		t.Errorf("got %d, want 401", status)
	}
	if resp, _ := f.do(t, "GET", "/metrics"); resp.StatusCode != 200 {
		t.Errorf("metrics: %s", resp.Status)
	}
}

func TestStoreThatIsAway(t *testing.T) {
	f := mustServeAPI(t, nil)
	w := &answer{ResponseWriter: httptest.NewRecorder()}
	for err, want := range map[error]int{store.ErrUnavailable: 503, context.DeadlineExceeded: 503, refused(404, "x"): 404} {
		if f.failed(w, err); w.status != want {
			t.Errorf("%v: %d, want %d", err, w.status, want)
		}
	}
}
