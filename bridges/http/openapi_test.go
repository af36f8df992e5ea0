package httpbridge

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/openapitest"
)

// Each operation of the document is a route, and the other way round; each example in it
// is sent, and what comes back is what the document says. Other tests hold their answers
// to it too, see bridge.do.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	var routes []string
	for _, r := range b.routes {
		routes = append(routes, r.method+" "+strings.ReplaceAll(r.pattern, "...", ""))
	}
	slices.Sort(routes)
	if operations := b.document.Operations(); !slices.Equal(routes, operations) {
		t.Errorf("routes\n%q\ndocument\n%q", routes, operations)
	}
	var document struct {
		Paths map[string]map[string]struct {
			RequestBody struct {
				Content map[string]struct {
					Examples map[string]struct{ Value json.RawMessage }
				}
			}
			Responses map[string]any
		}
	}
	resp, text := b.do("GET", "/openapi.json", "")
	if err := json.Unmarshal([]byte(text), &document); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode, err)
	}
	send := func(method, path, body string, headers ...string) {
		t.Helper()
		if resp, text := b.do(method, path, body, headers...); resp.StatusCode >= 400 && !strings.HasPrefix(path, "/request/") {
			t.Errorf("%s %s %s: %d %s", method, path, body, resp.StatusCode, text)
		}
	}
	b.header.Set("Authorization", "Basic cm9vbTpyaWdodA==") // the user room
	examples := 0
	for _, subscribed := range []bool{false, true} {
		if subscribed {
			sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
			sub.Subscribe("#", 0)
		}
		for path, item := range document.Paths {
			for method, operation := range item {
				for contentType, content := range operation.RequestBody.Content {
					for _, example := range content.Examples {
						body := string(example.Value)
						if contentType == "text/plain" {
							body = strings.Trim(body, `"`)
						}
						examples++
						timeout := ""
						if strings.HasPrefix(path, "/request/") {
							timeout = "?timeout=1ms"
						}
						send(strings.ToUpper(method), strings.ReplaceAll(path, "{topic}", "room/1/temperature")+timeout, body, "Content-Type: "+contentType)
					}
				}
			}
		}
		send("GET", "/topics/room/1/temperature", "")
	}
	send("DELETE", "/topics/room/1/temperature?qos=1", "")
	send("DELETE", "/subscribe?session=function-1", "")
	if examples < 12 {
		t.Errorf("%d examples were sent", examples)
	}
	unseen := slices.DeleteFunc(b.document.Unseen("200", "202", "204"), func(operation string) bool {
		return strings.HasSuffix(operation, "/subscribe 200") || operation == "POST /subscribe 204" || operation == "POST /request/{topic} 200" // see subscribe_test.go, request_test.go
	})
	if len(unseen) > 0 {
		t.Errorf("no example led to %q", unseen)
	}
}

func mustDocument(t *testing.T) *openapitest.Document {
	t.Helper()
	d, err := openapitest.Parse(bridgeOpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
