package peers

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"loopmq"
	"loopmq/internal/child"
)

// page is a web page with MQTT.js. It connects, subscribes, publishes, answers what it receives, and tells the test how that went.
const page = `<!DOCTYPE html><title>loopmq</title><script src="/mqtt.js"></script><script>
const tell = (event) => fetch('/told', { method: 'POST', body: JSON.stringify(event) })
const client = mqtt.connect(%q, { protocolVersion: 5, reconnectPeriod: 0 })
client.on('error', (e) => tell('error ' + e))
client.on('close', () => tell('closed'))
client.on('connect', () => client.subscribe('to/page', { qos: 1 }, (e) => {
  if (e) return tell('error ' + e)
  client.publish('from/page', 'hello', { qos: 1 })
}))
client.on('message', (topic, payload) => client.publish('from/page', 'got ' + payload, { qos: 2 }, () => client.end()))
</script>`

// site is a web server with the page.
type site struct {
	*httptest.Server
	url  atomic.Value // string: what the page connects to
	told chan string  // what it tells
}

func newSite(t *testing.T) *site { return newSiteOf(t, page) }

// newSiteOf makes one of another page, which has a URL in it.
func newSiteOf(t *testing.T, page string) *site {
	t.Helper()
	s := &site{told: make(chan string, 100)}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, page, s.url.Load()) })
	mux.HandleFunc("/mqtt.js", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, "mqttjs/node_modules/mqtt/dist/mqtt.min.js")
	})
	mux.HandleFunc("/told", func(_ http.ResponseWriter, r *http.Request) {
		var event string
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
			t.Error(err)
		}
		s.told <- event
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// open has Chromium load the page, which connects to url.
func (s *site) open(t *testing.T, url string) {
	t.Helper()
	s.url.Store(url)
	profile, err := os.MkdirTemp("", "loopmq-chromium")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	// Without a sandbox, since tests may run as root. The port keeps it running.
	browser, err := child.Start(exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--ignore-certificate-errors", "--remote-debugging-port=0", "--user-data-dir="+profile, s.URL))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(browser.Kill)
}

// A page in a real browser connects, subscribes, publishes, receives and disconnects.
func TestBrowser(t *testing.T) {
	s := newSite(t)
	_, url := startWebSocket(t, loopmq.WebSocket{Origins: []string{s.URL}})
	converse(t, s, url)
}

func TestBrowserOnSecureWebSocket(t *testing.T) {
	s := newSite(t)
	converse(t, s, startSecureWebSocket(t, loopmq.WebSocket{Origins: []string{s.URL}}))
}

func converse(t *testing.T, s *site, url string) {
	t.Helper()
	other := connectMQTTJS(5)(t, url, options{subscribe: []subscription{{filter: "from/page", qos: 2}}})
	s.open(t, url)
	expect(t, other, text("from/page", "hello", 1))
	other.publish(text("to/page", "ü €", 1))
	expect(t, other, text("from/page", "got ü €", 2))
	if got := wait(t, s.told, "the end of the page's connection"); got != "closed" {
		t.Errorf("the page says %q", got)
	}
}

// A page that comes from elsewhere than the listener may not connect, unless it is told so.
func TestBrowserOfAnotherOrigin(t *testing.T) {
	s := newSite(t)
	b, url := startWebSocket(t, loopmq.WebSocket{})
	s.open(t, url)
	if got := wait(t, s.told, "what the page says"); got != "closed" {
		t.Errorf("the page says %q", got)
	}
	var metrics strings.Builder
	b.Metrics().WritePrometheus(&metrics)
	if want := `loopmq_connections_refused_total{reason="websocket_origin"} 1` + "\n"; !strings.Contains(metrics.String(), want) {
		t.Errorf("no %s", want)
	}
}
