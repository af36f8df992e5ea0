package agents

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"loopmq/loadtest"
)

// childVariable makes the test binary an agent: a child process of TestProcesses.
const childVariable = "LOADTEST_AGENT_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := session(context.Background(), newLink(os.Stdin, os.Stdout, os.Stdin.Close), play, quiet); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// listen starts an agent, which ends with the test, and returns its address.
func listen(t *testing.T, token string, run engine) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- serve(ctx, l, token, quiet, run) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// short is a scenario of one second.
func short(t *testing.T) *loadtest.Scenario {
	return scenario(t, func(s *loadtest.Scenario) { s.Duration = time.Second })
}

func TestServe(t *testing.T) {
	t.Parallel()
	o := Options{Addresses: []string{listen(t, "secret", play), listen(t, "secret", play)}, Token: "secret", Logger: quiet}
	for range 2 { // an agent is there for one run after another
		r, err := Run(t.Context(), short(t), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Processes != 2 || len(r.Errors) > 0 {
			t.Errorf("%d processes, errors: %s", r.Processes, groups(r))
		}
	}
}

func TestWrongToken(t *testing.T) {
	t.Parallel()
	agent := listen(t, "secret", func(context.Context, *loadtest.Scenario, loadtest.Options) (*loadtest.Result, error) {
		t.Error("it ran")
		return nil, nil
	})
	for _, token := range []string{"", "Secret", "secret "} {
		if _, err := Run(t.Context(), short(t), Options{Addresses: []string{agent}, Token: token, Logger: quiet}); !errors.Is(err, ErrToken) {
			t.Errorf("token %q: got %v, want ErrToken", token, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), l, "", quiet); err == nil {
		t.Error("an agent without a token")
	}
}

// TestFalseCoordinator: an agent runs nothing for who doesn't know the token, and a proof that was overheard is none in another handshake.
func TestFalseCoordinator(t *testing.T) {
	t.Parallel()
	agent := listen(t, "secret", func(context.Context, *loadtest.Scenario, loadtest.Options) (*loadtest.Result, error) {
		t.Error("it ran")
		return nil, errors.New("it ran")
	})
	mine := []byte("my nonce")
	var overheard hello
	for _, test := range []struct {
		name  string
		proof func(theirs hello) []byte
	}{
		{"another token", func(theirs hello) []byte { return proof("Secret", "coordinator", theirs.Nonce, mine) }},
		{"no proof", func(hello) []byte { return nil }},
		{"of the other role", func(theirs hello) []byte { return proof("secret", "agent", theirs.Nonce, mine) }},
		{"of another handshake", func(hello) []byte { return proof("secret", "coordinator", overheard.Nonce, mine) }},
	} {
		conn, err := net.Dial("tcp", agent)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		l := newLink(conn, conn, conn.Close)
		var theirs, answer hello
		if err := l.receive(&theirs, helloBytesMax); err != nil {
			t.Fatal(err)
		}
		if err := l.send(hello{Nonce: mine, Proof: test.proof(theirs)}); err != nil {
			t.Fatal(err)
		}
		_ = l.send(message{Scenario: short(t)})
		if err := l.receive(&answer, helloBytesMax); err != nil || answer.Proof != nil || answer.Error != ErrToken.Error() {
			t.Errorf("%s: got %+v, %v, want the error %q", test.name, answer, err, ErrToken)
		}
		l.drain()
		_ = conn.Close()
		overheard = theirs
	}
}

// TestFalseAgent: a coordinator doesn't hand its scenario to who doesn't know the token, and who answers something else is no agent.
func TestFalseAgent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(l *link)
		want   error
	}{
		"mirror": {func(l *link) {
			var theirs hello
			_ = l.send(hello{Version: protocolVersion, Nonce: []byte("x")})
			_ = l.receive(&theirs, helloBytesMax)
			_ = l.send(hello{Proof: theirs.Proof})
		}, ErrToken},
		"version": {func(l *link) { _ = l.send(hello{Version: 99}) }, ErrProtocol},
		"text":    {func(l *link) { _, _ = l.w.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, ErrProtocol},
		"closed":  {func(l *link) {}, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			go func() {
				conn, err := server.Accept()
				if err != nil {
					return
				}
				test.answer(newLink(conn, conn, conn.Close))
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
			}()
			_, err = Run(t.Context(), short(t), Options{Addresses: []string{server.Addr().String()}, Token: "secret", Logger: quiet})
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// TestUnreachable: nothing runs if one agent can't be reached.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	agent := listen(t, "secret", func(context.Context, *loadtest.Scenario, loadtest.Options) (*loadtest.Result, error) {
		t.Error("it ran")
		return nil, nil
	})
	_, err = Run(t.Context(), short(t), Options{Addresses: []string{agent, nobody}, Token: "secret", Logger: quiet})
	if err == nil || !strings.Contains(err.Error(), nobody) {
		t.Errorf("got %v, want an error about %s", err, nobody)
	}
	if _, err := Run(t.Context(), short(t), Options{}); err == nil {
		t.Error("a run without agents")
	}
	if _, err := Run(t.Context(), &loadtest.Scenario{}, Options{Processes: 1}); !errors.Is(err, loadtest.ErrScenario) {
		t.Errorf("got %v, want ErrScenario", err)
	}
}

// TestBusy: an agent has one run at a time.
func TestBusy(t *testing.T) {
	t.Parallel()
	running, end := make(chan struct{}), make(chan struct{})
	agent := listen(t, "secret", func(ctx context.Context, s *loadtest.Scenario, o loadtest.Options) (*loadtest.Result, error) {
		close(running)
		<-end
		return play(ctx, s, o)
	})
	o := Options{Addresses: []string{agent}, Token: "secret", Logger: quiet}
	first := make(chan error)
	go func() {
		_, err := Run(t.Context(), short(t), o)
		first <- err
	}()
	<-running
	if _, err := Run(t.Context(), short(t), o); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("got %v, want that it is busy", err)
	}
	close(end)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// TestProcesses runs children that are this test binary.
func TestProcesses(t *testing.T) {
	t.Setenv(childVariable, "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Processes: 2, Command: []string{self}, Logger: quiet, Addresses: []string{listen(t, "secret", play)}, Token: "secret"}
	r, err := Run(t.Context(), short(t), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Processes != 3 || len(r.Errors) > 0 {
		t.Errorf("%d processes, errors: %s", r.Processes, groups(r))
	}
	for _, command := range [][]string{nil, {"/no/such/program"}} {
		if _, err := Run(t.Context(), short(t), Options{Processes: 1, Command: command}); err == nil {
			t.Errorf("%q was started", command)
		}
	}
	if _, err := Run(t.Context(), short(t), Options{Processes: 1, Command: []string{"true"}, Logger: quiet}); err == nil {
		t.Error("a program that ends at once has reported")
	}
}

// FuzzReceive: whatever a peer sends, receive takes no more than the limit, and what was sent comes as it was.
func FuzzReceive(f *testing.F) {
	for _, v := range []any{
		message{},
		message{Begin: true},
		message{Scenario: &loadtest.Scenario{Name: "a", Targets: []string{"tcp://a"}}},
		message{Second: &loadtest.Second{At: 1}},
		message{Result: []byte(`{"version":1}`)},
		message{Error: "no"},
		hello{Nonce: []byte{1}},
	} {
		text, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	}
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again message
		if newLink(bytes.NewReader(b), nil, nil).receive(&m, 1<<20) != nil {
			return
		}
		var sent bytes.Buffer
		if err := newLink(&sent, &sent, nil).send(m); err != nil {
			t.Fatal(err)
		}
		if err := newLink(&sent, nil, nil).receive(&again, 1<<24); err != nil {
			t.Fatalf("%+v came back as %v", m, err)
		}
		if text, err := json.Marshal(m); err == nil && !reflect.DeepEqual(mustJSON(t, again), text) {
			t.Fatalf("%s came back as %s", text, mustJSON(t, again))
		}
	})
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
