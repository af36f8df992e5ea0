package auth

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"loopmq"
	"loopmq/codec"
	"loopmq/internal/brokertest"
	"loopmq/internal/child"
)

// Random rules mean the same here and at mosquitto: whatever clients publish and are sent is compared, through both brokers.
func TestACLAsMosquitto(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LOOPMQ_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("LOOPMQ_TEST_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))

	dir := t.TempDir()
	passwords := filepath.Join(dir, "passwd")
	for i, user := range []string{"u1", "u2", "u+3", "super"} {
		args := []string{"-b", passwords, user, "x"}
		if i == 0 {
			args = append([]string{"-c"}, args...)
		}
		if out, err := exec.CommandContext(t.Context(), "mosquitto_passwd", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	total := 0
	for round := range 6 {
		path := filepath.Join(dir, fmt.Sprint("acl", round))
		text := randomACL(r)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := OpenPasswordFile(passwords, PasswordOptions{})
		if err != nil {
			t.Fatal(err)
		}
		acl, err := OpenACLFile(path)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		ours := brokertest.Start(t, func(o *loopmq.Options) {
			o.Loops = 1 // so that what was published before a PINGREQ is there before its answer
			o.Authenticator = NewChain(Options{AllowAnonymous: true}, Step{Method: file})
			o.Authorizer = acl
		})
		topics := map[string]bool{}
		for len(topics) < 80 {
			topics[randomTopic(r)] = true
		}
		names := slices.Sorted(maps.Keys(topics))
		want, got := observe(t, startMosquitto(t, dir, passwords, path), names), observe(t, ours.Addr, names)
		total += len(want)
		for what := range want {
			if !got[what] {
				t.Errorf("round %d: %s: mosquitto allows it\n%s", round, what, text)
			}
		}
		for what := range got {
			if !want[what] {
				t.Errorf("round %d: %s: mosquitto does not allow it\n%s", round, what, text)
			}
		}
	}
	if total < 100 {
		t.Errorf("mosquitto allows %d things: the rules test nothing", total)
	}
}

// levels are what topics, rules, and names are made of.
var levels = []string{"a", "b", "c1", "u1", ""}

func randomTopic(r *rand.Rand) string {
	parts := []string{}
	for range 1 + r.IntN(4) {
		parts = append(parts, levels[r.IntN(len(levels))])
	}
	if r.IntN(8) == 0 {
		parts[0] = "$own"
	}
	if topic := strings.Join(parts, "/"); topic != "" {
		return topic
	}
	return "a"
}

func randomFilter(r *rand.Rand, pattern bool) string {
	parts := strings.Split(randomTopic(r), "/")
	for i := range parts {
		switch r.IntN(6) {
		case 0:
			parts[i] = "+"
		case 1:
			if pattern {
				parts[i] = []string{"%c", "%u"}[r.IntN(2)]
			}
		}
	}
	if r.IntN(4) == 0 {
		parts = append(parts, "#")
	}
	if r.IntN(30) == 0 {
		parts = []string{"#"}
	}
	return strings.Join(parts, "/")
}

// randomACL makes a file, in which super may do everything.
func randomACL(r *rand.Rand) string {
	var b strings.Builder
	accesses := []string{"", "read ", "write ", "readwrite ", "deny "}
	rules := func(n int) {
		for range n {
			word, pattern := "topic ", r.IntN(5) == 0
			if pattern {
				word = "pattern "
			}
			fmt.Fprintf(&b, "%s%s%s\n", word, accesses[r.IntN(len(accesses))], randomFilter(r, pattern))
			if r.IntN(20) == 0 {
				b.WriteString("# topic readwrite #\n\n")
			}
		}
	}
	rules(r.IntN(8))
	for range 1 + r.IntN(4) {
		fmt.Fprintf(&b, "user %s\n", []string{"u1", "u2", "u+3"}[r.IntN(3)])
		rules(r.IntN(8))
	}
	b.WriteString("user super\ntopic #\ntopic $own/#\n")
	return b.String()
}

// observe tells what clients may do at a broker, in words.
func observe(t *testing.T, addr string, topics []string) map[string]bool {
	t.Helper()
	allowed := map[string]bool{}
	super := brokertest.Connect(t, addr, codec.V5, brokertest.Credentials("super", "x"), brokertest.ClientID("super"))
	for _, user := range []string{"", "u1", "u2", "u+3"} {
		for _, id := range []string{"c1", "c2", "c+"} {
			options := []brokertest.ConnectOption{brokertest.ClientID(id)}
			if user != "" {
				options = append(options, brokertest.Credentials(user, "x"))
			}
			c := brokertest.Connect(t, addr, codec.V5, options...)
			for _, filter := range []string{"#", "$own/#"} {
				if code := c.Subscribe(filter, 0).ReasonCodes[0]; code >= 0x80 {
					t.Fatalf("%s: subscribing to %s: %v", addr, filter, code)
				}
			}
			for _, topic := range topics {
				p := &codec.Publish{TopicName: []byte(topic), QoS: 1, PacketID: super.PacketID()}
				super.Send(p)
				brokertest.Expect[*codec.Ack](super)
			}
			c.Send(brokertest.Pingreq{})
			for pong := false; !pong; {
				switch p := c.Receive().(type) {
				case *codec.Publish:
					allowed[fmt.Sprintf("user %q client %q reads %q", user, id, p.TopicName)] = true
				case brokertest.Pingresp:
					pong = true
				default:
					t.Fatalf("got %v", p)
				}
			}
			c.Unsubscribe("#", "$own/#")
			for _, topic := range topics {
				c.Send(&codec.Publish{TopicName: []byte(topic), QoS: 1, PacketID: c.PacketID()})
				if brokertest.Expect[*codec.Ack](c).ReasonCode < 0x80 {
					allowed[fmt.Sprintf("user %q client %q writes %q", user, id, topic)] = true
				}
			}
			c.Disconnect()
		}
	}
	return allowed
}

// startMosquitto runs a mosquitto and returns its address.
func startMosquitto(t *testing.T, dir, passwords, acl string) string {
	t.Helper()
	port := strconv.Itoa(child.FreePort())
	// Started by root it would give up what it needs to read the files; else the user has no effect.
	path := filepath.Join(dir, "mosquitto"+port+".conf")
	text := fmt.Sprintf("user root\nlistener %s 127.0.0.1\nallow_anonymous true\npassword_file %s\nacl_file %s\n", port, passwords, acl)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mosquitto", "-c", path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/usr/local/sbin")
	if _, err := exec.LookPath("mosquitto"); err != nil {
		cmd.Path, cmd.Err = "/usr/sbin/mosquitto", nil
	}
	var log strings.Builder
	cmd.Stderr = &log
	p, err := child.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	addr := net.JoinHostPort("127.0.0.1", port)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			return addr
		}
		select {
		case <-p.Ended:
			t.Fatalf("mosquitto ended:\n%s", log.String())
		case <-deadline:
			t.Fatal("mosquitto doesn't listen")
		case <-tick.C:
		}
	}
}

// Clients by others, with passwords and rules, in both protocol versions.
func TestMosquittoClients(t *testing.T) {
	t.Parallel()
	passwords := writeFile(t, "passwd", "")
	for _, user := range []string{"alice", "bob"} {
		h, err := HashPassword(Argon2id, user+"'s")
		if err != nil {
			t.Fatal(err)
		}
		if err := SetPassword(passwords, user, h, false); err != nil {
			t.Fatal(err)
		}
	}
	file, err := OpenPasswordFile(passwords, PasswordOptions{})
	if err != nil {
		t.Fatal(err)
	}
	acl, err := OpenACLFile(writeFile(t, "acl", "user alice\ntopic write news/#\nuser bob\ntopic read news/+\ntopic deny news/secret\npattern readwrite box/%c\n"))
	if err != nil {
		t.Fatal(err)
	}
	subscribed := make(chan struct{}, 10)
	s := brokertest.Start(t, func(o *loopmq.Options) {
		o.Authenticator = NewChain(Options{}, Step{Method: file})
		o.Authorizer = acl
		o.Recorder = loopmq.OnEvent(func(*loopmq.Event) { subscribed <- struct{}{} }, loopmq.EventSessionSubscribed)
	})
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	run := func(program string, args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), program, append([]string{"-p", port, "-q", "1"}, args...)...).CombinedOutput()
		return string(out), err
	}
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for _, wrong := range [][]string{{}, {"-u", "alice", "-P", "bob's"}, {"-u", "mallory", "-P", "alice's"}, {"-u", "alice"}} {
			if out, err := run("mosquitto_pub", append(wrong, "-V", version, "-t", "news/a", "-m", "x")...); err == nil {
				t.Errorf("%s: %q is let in: %s", version, wrong, out)
			}
		}
		// bob subscribes to all, before alice writes; what he may not read doesn't come.
		sub := exec.CommandContext(t.Context(), "mosquitto_sub", "-p", port, "-q", "1", "-u", "bob", "-P", "bob's", "-i", "bobs", "-V", version,
			"-t", "#", "-v", "-C", "2", "-W", "60")
		var messages strings.Builder
		sub.Stdout = &messages
		if err := sub.Start(); err != nil {
			t.Fatal(err)
		}
		<-subscribed
		for _, topic := range []string{"news/secret", "news/a/b", "other", "news/a"} {
			if o, err := run("mosquitto_pub", "-u", "alice", "-P", "alice's", "-V", version, "-t", topic, "-m", "text"); err != nil {
				t.Errorf("mosquitto_pub: %v\n%s", err, o)
			}
		}
		if o, err := run("mosquitto_pub", "-u", "alice", "-P", "alice's", "-i", "bobs2", "-V", version, "-t", "box/bobs", "-m", "not hers"); err != nil {
			t.Errorf("mosquitto_pub: %v\n%s", err, o)
		}
		// What he may read by the pattern is the second message, and ends mosquitto_sub.
		if _, err := s.Broker.Publish(t.Context(), loopmq.Message{TopicName: "box/bobs", Payload: []byte("his"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		if err := sub.Wait(); err != nil {
			t.Errorf("mosquitto_sub: %v", err)
		}
		if got := messages.String(); got != "news/a text\nbox/bobs his\n" {
			t.Errorf("%s: bob got %q", version, got)
		}
	}
}
