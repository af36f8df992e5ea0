package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/store/memory"
	"loopmq/webhooks"
)

// asProgram makes the test binary the program itself.
const asProgram = "LOOPMQ_EXAMPLE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const secret = "whsec_bm90IGEgc2VjcmV0IGF0IGFsbCwgYnV0IGxvbmc="

// functions are the programs, by their languages.
var functions = map[string][]string{
	"Go":   {os.Args[0], "-address", "127.0.0.1:0"},
	"Node": {"node", "function.mjs", "0"},
}

// function starts a program and returns its URL.
func startFunction(t *testing.T, args []string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "LOOPMQ_SECRET="+secret)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		t.Fatalf("got %q, %v", line, err)
	}
	return "http://" + address + "/"
}

// The function answers a device that asks by MQTT.
func TestAnswerOverMQTT(t *testing.T) {
	for language, args := range functions {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			key, err := webhooks.ParseSecret(secret)
			if err != nil {
				t.Fatal(err)
			}
			b := start(t, &webhooks.Endpoint{
				Name: "thermometer", URL: startFunction(t, args), Events: []string{"message.published"}, TopicFilters: []string{"thermometers/+/ask"},
				Secrets: []webhooks.Secret{key}, AllowPrivate: true, Replies: &webhooks.Replies{TopicFilters: []string{"thermometers/+/answer"}},
			})
			answers := make(chan string, 1)
			stop, err := b.Subscribe("thermometers/7/answer", func(m *loopmq.MessageView) {
				var p codec.Properties
				_ = m.Properties(&p)
				answers <- fmt.Sprintf("%s %s", p.CorrelationData, m.Payload)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			_, err = b.Publish(t.Context(), loopmq.Message{
				TopicName: "thermometers/7/ask", Payload: []byte(`{"celsius": 21.5}`), QoS: 1, ResponseTopic: "thermometers/7/answer", CorrelationData: []byte("17"),
			})
			if err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-answers:
				if want := `17 {"fahrenheit":70.7}`; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			case <-time.After(time.Minute):
				t.Fatal("no answer")
			}
		})
	}
}

// What isn't signed, or what can't be answered, is refused.
func TestRefuses(t *testing.T) {
	const ask = `{"specversion": "1.0", "type": "io.loopmq.message.published", "responsetopic": "a", "data": {"celsius": 100}}`
	now := time.Now()
	for language, args := range functions {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			url := startFunction(t, args)
			for _, c := range []struct {
				name, body, secret string
				at                 time.Time
				status             int
				answer             string
			}{
				{"good", ask, secret, now, 200, `{"fahrenheit":212`},
				{"other secret", ask, "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x"), 32)), now, 401, ""},
				{"no secret", ask, "", now, 401, ""},
				{"old", ask, secret, now.Add(-time.Hour), 401, ""},
				{"new", ask, secret, now.Add(time.Hour), 401, ""},
				{"no JSON", "{", secret, now, 400, ""},
				{"nobody waits", `{"type": "io.loopmq.client.connected"}`, secret, now, 204, ""},
				{"nothing to convert", strings.Replace(ask, "celsius", "kelvin", 1), secret, now, 422, ""},
			} {
				status, answer := post(t, url, c.body, c.secret, c.at)
				if status != c.status || !strings.HasPrefix(answer, c.answer) {
					t.Errorf("%s: got %d %s, want %d", c.name, status, answer, c.status)
				}
			}
		})
	}
}

// The lines for curl in docs/webhooks.md work with either function.
func TestCurlLines(t *testing.T) {
	text, err := os.ReadFile("../../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(text), "```console\n$ export LOOPMQ_SECRET="+secret+"\n$ node function.mjs 9090 &\nlistening on 127.0.0.1:9090\n")
	block, _, closed := strings.Cut(block, "```")
	if !ok || !closed {
		t.Fatal("docs/webhooks.md has no lines for curl")
	}
	var script, want strings.Builder
	for line := range strings.Lines(block) {
		if command, is := strings.CutPrefix(line, "$ "); is {
			script.WriteString(command)
			if strings.HasPrefix(command, "curl ") {
				script.WriteString("echo\n")
			}
		} else {
			want.WriteString(line)
		}
	}
	for language, args := range functions {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "bash", "-ec", strings.ReplaceAll(script.String(), "http://127.0.0.1:9090/", startFunction(t, args)))
			cmd.Env = append(os.Environ(), "LOOPMQ_SECRET="+secret)
			out, err := cmd.CombinedOutput()
			got := strings.ReplaceAll(string(out), "\n\n", "\n") // Go's answers of errors end in one of their own
			if language == "Go" {
				want := strings.ReplaceAll(want.String(), "the signature is wrong", "the request is too old, or too new")
				if err != nil || got != want {
					t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
				}
			} else if err != nil || got != want.String() {
				t.Errorf("%v, got\n%s\nwant\n%s", err, got, want.String())
			}
		})
	}
}

// post sends a signed request, as loopmq does.
func post(t *testing.T, url, body, secret string, at time.Time) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	timestamp := fmt.Sprint(at.Unix())
	req.Header.Set("webhook-id", "1")
	req.Header.Set("webhook-timestamp", timestamp)
	if secret != "" {
		key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		m := hmac.New(sha256.New, key)
		m.Write([]byte("1." + timestamp + "." + body))
		req.Header.Set("webhook-signature", "v1,AAAA v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// start starts a broker that calls an endpoint.
func start(t *testing.T, e *webhooks.Endpoint) *loopmq.Broker {
	t.Helper()
	if err := e.SetDefaults(); err != nil {
		t.Fatal(err)
	}
	endpoints := []*webhooks.Endpoint{e}
	store, log := memory.New(memory.Options{}), slog.New(slog.DiscardHandler)
	broker, err := loopmq.New(loopmq.Options{Store: store, Logger: log, Recorder: webhooks.NewMatcher(endpoints).Recorder()})
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	hooks, err := webhooks.New(webhooks.Options{Store: store, Broker: broker, Endpoints: endpoints, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	hooks.Start()
	t.Cleanup(func() {
		hooks.Close(context.Background())
		if err := broker.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		_ = store.Close()
	})
	return broker
}
