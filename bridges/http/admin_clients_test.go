package httpbridge

import (
	"encoding/json"
	"net/http"
	"testing"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// mustHaveBroker gives the listener a real broker.
func (f *fixture) mustHaveBroker(t *testing.T) *brokertest.Server {
	t.Helper()
	b := brokertest.Start(t)
	f.broker.Store(b.Broker)
	return b
}

func TestAPIBeforeThereIsABroker(t *testing.T) {
	f := mustStart(t, nil)
	resp, body := f.do(t, "GET", "/api/v1/clients")
	checkProblem(t, resp, body, http.StatusServiceUnavailable)
}

func TestClients(t *testing.T) {
	f := mustStart(t, nil)
	b := f.mustHaveBroker(t)
	kicked := brokertest.Connect(t, b.Addr, codec.V5, func(c *codec.Connect) { c.ClientID = []byte("a/b c") })
	brokertest.Connect(t, b.Addr, codec.V311, func(c *codec.Connect) { c.ClientID = []byte("d") })
	for _, tt := range []struct {
		path string
		ids  []string
		next string
	}{
		{"/api/v1/clients", []string{"a/b c", "d"}, ""},
		{"/api/v1/clients?limit=1", []string{"a/b c"}, "a/b c"},
		{"/api/v1/clients?cursor=a%2Fb%20c", []string{"d"}, ""},
		{"/api/v1/clients?cursor=d", nil, ""},
	} {
		resp, body := f.do(t, "GET", tt.path)
		var got page[loopmq.ClientStatus]
		if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %s %s", tt.path, resp.Status, body)
		}
		if len(got.Items) != len(tt.ids) || got.Items == nil || got.Next != tt.next {
			t.Fatalf("%s: %s, want %q", tt.path, body, tt.ids)
		}
		for i, id := range tt.ids {
			if got.Items[i].ClientID != id {
				t.Errorf("%s: %s, want %q", tt.path, body, tt.ids)
			}
		}
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "clientid=a", "address=x"} {
		resp, body := f.do(t, "GET", "/api/v1/clients?"+query)
		checkProblem(t, resp, body, http.StatusBadRequest)
	}
	if resp, body := f.do(t, "DELETE", "/api/v1/clients/a%2Fb%20c"); resp.StatusCode != http.StatusNoContent {
		t.Errorf("kick: %s %s", resp.Status, body)
	}
	if d := brokertest.Expect[*codec.Disconnect](kicked); d.ReasonCode != codec.AdministrativeAction {
		t.Errorf("got %v", d)
	}
	resp, body := f.do(t, "DELETE", "/api/v1/clients/nobody")
	checkProblem(t, resp, body, http.StatusNotFound)
}
