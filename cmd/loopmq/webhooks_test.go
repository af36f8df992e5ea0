package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const webhookSecret = "whsec_bm90IGEgc2VjcmV0IGF0IGFsbCwgYnV0IGxvbmc="

// hookRequest is a request that a receiver got.
type hookRequest struct {
	header http.Header
	body   string
}

// receiver is an HTTP server that tells what it gets, and answers.
func receiver(t *testing.T, answer string) (url string, got <-chan hookRequest) {
	t.Helper()
	requests := make(chan hookRequest, 1000)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests <- hookRequest{r.Header, string(body)}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	return s.URL, requests
}

// next returns the next request about a topic.
func next(t *testing.T, got <-chan hookRequest, topic string) (hookRequest, map[string]any) {
	t.Helper()
	for {
		select {
		case r := <-got:
			var event map[string]any
			if err := json.Unmarshal([]byte(r.body), &event); err != nil {
				t.Fatalf("%v: %s", err, r.body)
			}
			if event["subject"] == topic {
				return r, event
			}
		case <-time.After(patience):
			t.Fatalf("no event about %s", topic)
		}
	}
}

// A message of mosquitto_pub becomes a signed CloudEvent, and what the receiver answers gets to mosquitto_sub.
func TestWebhookFromDeviceToDevice(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, `{"ok":true}`)
	p := mustServe(t, "--config", mustWrite(t, "loopmq.yaml", `
webhooks:
  - name: fn
    url: `+url+`
    events: [message.published]
    topic_filters: [ask/#]
    secret_files: [`+mustWrite(t, "secret", webhookSecret+"\n")+`]
    allow: 127.0.0.1
    durability: outbox
    replies:
      topic_filters: [answer/+]
      qos: 1
`))
	device := []string{"-V", "5", "-i", "device", "-c", "-x", "1000", "-q", "1", "-t", "answer/7"}
	if out, ok := mosquitto(t, p.tcp, "sub", append(device, "-E")...); !ok { // subscribes, and is away until the answer is there
		t.Fatal(out)
	}
	mosquittoPub(t, p.tcp, "-V", "5", "-q", "1", "-t", "ask/7", "-m", `{"t":21.5}`, "-D", "publish", "response-topic", "answer/7", "-D", "publish", "correlation-data", "c1", "-u", "ada", "-i", "asker")
	r, event := next(t, got, "ask/7")
	verifySignature(t, &r)
	for name, want := range map[string]any{
		"specversion": "1.0", "type": "io.loopmq.message.published", "clientid": "asker", "username": "ada", "qos": 1.0, "responsetopic": "answer/7",
		"datacontenttype": "application/json", "correlationdata": "YzE=",
	} {
		if event[name] != want {
			t.Errorf("%s: got %v, want %v", name, event[name], want)
		}
	}
	if got, want := fmt.Sprint(event["data"]), "map[t:21.5]"; got != want {
		t.Errorf("data: got %s, want %s", got, want)
	}
	answer, _ := mosquitto(t, p.tcp, "sub", append(device, "-C", "1", "-F", "%p|%D|%C|%P")...)
	if want := `{"ok":true}|c1|application/json|http-status:200`; strings.TrimSpace(answer) != want {
		t.Errorf("reply: got %s, want %s", answer, want)
	}
}

// mosquittoPub publishes with mosquitto's client.
func mosquittoPub(t *testing.T, address string, args ...string) {
	t.Helper()
	host, port, _ := strings.Cut(address, ":")
	if out, err := exec.CommandContext(t.Context(), "mosquitto_pub", append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v\n%s", err, out)
	}
}

// verifySignature checks a request as Standard Webhooks has it.
func verifySignature(t *testing.T, r *hookRequest) {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(webhookSecret, "whsec_"))
	if err != nil {
		t.Fatal(err)
	}
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s.%s", r.header.Get("webhook-id"), r.header.Get("webhook-timestamp"), r.body)
	if got, want := r.header.Get("webhook-signature"), "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)); got != want {
		t.Errorf("webhook-signature: got %q, want %q", got, want)
	}
}

// SIGHUP adds, changes and removes endpoints; a mistake changes nothing.
func TestWebhooksFollowSIGHUP(t *testing.T) {
	t.Parallel()
	url, got := receiver(t, "")
	config := mustWrite(t, "loopmq.yaml", "log: {level: info}\n")
	p := mustServe(t, "--config", config)
	reload := func(text, want string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.awaitLine(t, want)
	}
	publish := func(topic string) {
		t.Helper()
		mosquittoPub(t, p.tcp, "-q", "1", "-t", topic, "-m", "x")
	}
	one := "webhooks:\n  - {name: one, url: \"" + url + "/one\", events: message.published, topic_filters: one/#, allow_private: true}\n"
	reload(one, `"changed":["webhooks"]`)
	publish("one/1")
	next(t, got, "one/1")
	reload(strings.ReplaceAll(one, "one/#", "two/#"), `"changed":["webhooks[0].topic_filters"]`)
	publish("one/2")
	publish("two/1")
	if _, event := next(t, got, "two/1"); event == nil {
		t.Error("no event")
	}
	reload(strings.ReplaceAll(one, "one/#", "one/#x"), `webhooks[0].topic_filters: \"one/#x\": allowed: Topic Filters`)
	publish("two/2")
	next(t, got, "two/2")
	reload("log: {level: info}\n", `"changed":["webhooks"]`)
	publish("two/3")
	reload(strings.ReplaceAll(one, "one/#", "three/#"), `"changed":["webhooks"]`)
	publish("three/1")
	for range 100 {
		select {
		case r := <-got:
			if strings.Contains(r.body, "two/3") {
				t.Error("an event went to an endpoint that was removed")
			}
			if strings.Contains(r.body, "three/1") {
				return
			}
		case <-time.After(patience):
			t.Fatal("no event about three/1")
		}
	}
}

func TestWebhookProblems(t *testing.T) {
	t.Parallel()
	secret := mustWrite(t, "secret", "whsec_c2hvcnQ=")
	for want, text := range map[string]string{
		`webhooks[0].secret_files[0]: ` + secret + ` is no secret: allowed: whsec_`: "secret_files: " + secret,
		`webhooks[0].secret_files, tls: open /none`:                                 "secret_files: /none",
		`webhooks[0].topic_filters: "a#": allowed`:                                  "topic_filters: [a, a#]",
		`webhooks[0].events: "message": allowed: *, client.connected`:               "events: message",
		`webhooks[0].replies.topic_filters: "": allowed`:                            "replies: {}",
		`webhooks[0].url: "http://fn.example": allowed: https`:                      "url: \"http://fn.example\"",
		`webhooks[0].tls: certificate: `:                                            "tls: {certificate: " + secret + "}",
		`webhooks[0].mode: "binary": allowed`:                                       "mode: binary, batch: {count: 2}",
	} {
		fields := "name: fn"
		if !strings.HasPrefix(text, "url") {
			fields += ", url: \"https://fn.example\""
		}
		if !strings.HasPrefix(text, "events") {
			fields += ", events: \"*\""
		}
		path := mustWrite(t, "loopmq.yaml", "webhooks:\n  - {"+fields+", "+text+"}\n")
		code, _, stderr := call(t, "config", "check", path)
		if code != exitUsage || !strings.Contains(stderr, want) || strings.Contains(stderr, "c2hvcnQ") {
			t.Errorf("%s: exit code %d, %q, want %q", text, code, stderr, want)
		}
	}
	good := mustWrite(t, "loopmq.yaml", "webhooks:\n  - {name: fn, url: \"https://fn.example\", events: \"*\", secret_files: "+mustWrite(t, "secret", webhookSecret)+"}\n")
	if code, _, stderr := call(t, "config", "check", good); code != exitOK {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	if _, stdout, _ := call(t, "config", "print", good); strings.Contains(stdout, "bm90") {
		t.Error("a secret is printed")
	}
}
