package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/redistest"
	"loopmq/store"
)

// api asks the admin API, and decodes the answer into v unless that is nil.
func (p *process) api(t *testing.T, method, path, body string, v any) (status int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.admin+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if v != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(data, v); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, data)
		}
	}
	return resp.StatusCode
}

// What the admin API of any node says and does, while nodes are killed.
func TestAdminOfAClusterWhoseNodesDie(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	url := r.URL() + "?lease=3s"
	a, b, dies := mustServeOn(t, url), mustServeOn(t, url), mustServeOn(t, url)
	c := brokertest.Connect(t, dies.tcp, codec.V5, brokertest.Durable("c"), brokertest.Credentials("ann", ""))
	c.Subscribe("t", 1)
	brokertest.Connect(t, dies.tcp, codec.V311, brokertest.ClientID("d")).Subscribe("t", 1)
	brokertest.Connect(t, b.tcp, codec.V5).Publish("t", "m", 1, brokertest.Retained)
	if status := a.api(t, "POST", "/bans", `{"kind":"username","value":"mallory","reason":"of all nodes"}`, nil); status != 204 {
		t.Fatalf("POST /bans: %d", status)
	}
	type client struct {
		ClientID  string `json:"client_id"`
		Connected bool   `json:"connected"`
		Node      string `json:"node"`
		LastError string `json:"last_error"`
		Queue     *struct{ Messages int }
	}
	var shown client
	if status := a.api(t, "GET", "/clients/d", "", &shown); status != 200 || !shown.Connected || shown.Node == "" {
		t.Fatalf("GET /clients/d: %d %+v", status, shown)
	}
	dead := shown.Node
	_ = dies.Process.Kill()
	await(t, "the node's clients to be offline", func() bool {
		shown = client{}
		return a.api(t, "GET", "/clients/c", "", &shown) == 200 && !shown.Connected
	})
	if shown.LastError != store.NodeEnded || shown.Queue == nil || shown.Queue.Messages == 0 {
		t.Errorf("c is shown as %+v", shown)
	}
	if status := b.api(t, "GET", "/clients/d", "", nil); status != 404 {
		t.Errorf("a session that ended with its connection: %d", status)
	}
	await(t, "the node to be listed no more", func() bool {
		_, body := b.get(t, "/api/v1/nodes")
		return !strings.Contains(body, dead) && strings.Count(body, `"state":"serving"`) == 2
	})
	if status := b.api(t, "DELETE", "/sessions/c", "", nil); status != 204 {
		t.Errorf("DELETE /sessions/c: %d", status)
	}
	if status := a.api(t, "GET", "/clients/c", "", nil); status != 404 {
		t.Errorf("a deleted session: %d", status)
	}
	if status := a.api(t, "DELETE", "/retained/t", "", nil); status != 204 {
		t.Errorf("DELETE /retained/t: %d", status)
	}

	// The node that banned dies; all that follow keep to it.
	_ = a.Process.Kill()
	again := mustServeOn(t, url)
	for _, p := range []*process{b, again} {
		c := brokertest.Dial(t, p.tcp, codec.V5)
		c.SendConnect(brokertest.Credentials("mallory", ""))
		c.ExpectConnack(codec.Banned)
		if _, body := p.get(t, "/api/v1/bans"); !strings.Contains(body, "of all nodes") {
			t.Errorf("the bans are %s", body)
		}
		if status := p.api(t, "GET", "/retained/t", "", nil); status != 404 {
			t.Errorf("a deleted retained message: %d", status)
		}
	}
	if status := again.api(t, "DELETE", "/bans/username/mallory", "", nil); status != 204 {
		t.Errorf("DELETE of the ban: %d", status)
	}
	await(t, "the other node to let it in", func() bool {
		c := brokertest.Dial(t, b.tcp, codec.V5)
		c.SendConnect(brokertest.Credentials("mallory", ""))
		return brokertest.Expect[*codec.Connack](c).ReasonCode == codec.Success
	})

	// One node drains another, which dies then.
	var nodes struct {
		Items []struct {
			Node  string
			State string
			Self  bool
		}
	}
	list := func() (self, other, otherIs string) {
		if status := again.api(t, "GET", "/nodes", "", &nodes); status != 200 {
			t.Fatalf("GET /nodes: %d", status)
		}
		for _, n := range nodes.Items {
			if n.Self {
				self = n.Node
			} else {
				other, otherIs = n.Node, n.State
			}
		}
		return self, other, otherIs
	}
	c = brokertest.Connect(t, b.tcp, codec.V5, brokertest.ClientID("sent away"))
	_, other, _ := list()
	if status := again.api(t, "POST", "/nodes/"+other+"/drain", "{}", nil); status >= 300 {
		t.Fatalf("POST …/drain: %d", status)
	}
	c.ExpectDisconnect(codec.UseAnotherServer)
	await(t, "the node to be drained", func() bool {
		_, _, is := list()
		status, _ := b.get(t, "/readyz")
		return is == "drained" && status == 503
	})
	_ = b.Process.Kill()
	await(t, "one node to be left", func() bool {
		self, _, _ := list()
		return self != "" && len(nodes.Items) == 1
	})
	if status := again.api(t, "DELETE", "/nodes/"+other+"/drain", "", nil); status != 404 {
		t.Errorf("a node that is dead is undrained: %d", status)
	}
}
