package coapbridge

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coap "github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"loopmq/codec"
	"loopmq/internal/brokertest"
)

// notification reads one, and acknowledges it.
func (d *device) notification() coap.Message {
	d.t.Helper()
	m := d.receive()
	if m.Type == coap.Confirmable {
		d.write(empty(coap.Acknowledgement, uint16(m.MessageID)))
	}
	return m
}

func TestObserve(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	pub.Publish("t/a", "retained", 1, brokertest.Retained)
	d := b.device()
	first := d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 0)), codes.Content, "retained")
	if uintOption(first, coap.Observe) == "none" {
		t.Error("it isn't observed")
	}
	pub.Publish("t/a", "qos1", 1)
	if m := d.want(d.notification(), codes.Content, "qos1"); m.Type != coap.Confirmable || string(m.Token) != "tk" || uintOption(m, coap.Observe) <= uintOption(first, coap.Observe) {
		t.Errorf("got %v", m)
	}
	pub.Publish("t/a", "qos0", 0)
	if m := d.want(d.notification(), codes.Content, "qos0"); m.Type != coap.NonConfirmable {
		t.Errorf("got %v", m)
	}
	d.want(d.ask(codes.GET, "/ps/t/a", nil, num(coap.Observe, 1)), codes.Content, "retained")
	if n := b.observations.Load(); n != 0 {
		t.Errorf("%d observations", n)
	}
	d.want(d.ask(codes.GET, "/ps/t/+/x", nil, num(coap.Observe, 0)), codes.Content, "")
	pub.Publish("t/7/x", "wild", 1)
	m := d.want(d.notification(), codes.Content, "wild")
	if at, err := m.Options.LocationPath(); err != nil || at != "/ps/t/7/x" {
		t.Errorf("location %q, %v", at, err)
	}
	pub.Publish("t/8/x", "reset", 1)
	m = d.want(d.receive(), codes.Content, "reset")
	d.write(empty(coap.Reset, uint16(m.MessageID)))
	await(t, func() bool { return b.observations.Load() == 0 })
}

// The first answer of a wildcard has one of the retained messages, the others follow.
func TestObserveRetained(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	want := map[string]string{"t/a": "one", "t/b": strings.Repeat("0123456789abcdef", 200), "t/c/d": "three", "t/e": "four"}
	for topic, text := range want {
		pub.Publish(topic, text, byte(len(topic)%3), brokertest.Retained)
	}
	d := b.device()
	for _, typ := range []coap.Type{coap.Confirmable, coap.NonConfirmable} {
		got := make(map[string]string)
		m := d.message(typ, codes.GET, "all", "/ps/t/#?qos=1", nil, num(coap.Observe, 0))
		d.send(m)
		for first := true; len(got) < len(want); first = false {
			m := d.want(d.notification(), codes.Content, "*")
			at, err := m.Options.LocationPath()
			if first && typ == coap.NonConfirmable && err != nil { // what is there first is not at QoS 0
				continue
			}
			if err != nil || first && typ == coap.Confirmable && m.Type != coap.Acknowledgement || got[at] != "" {
				t.Fatalf("%q, %v, %v", at, err, m)
			}
			text := string(m.Payload)
			if v, err := m.Options.GetBytes(coap.Block2); err == nil { // of whichever size: the address may be verified by now, or not
				for block, more := blockOf(uintOf(v)); more && block.more; {
					block.number++
					r := d.want(d.ask(codes.GET, "/ps/t/#?qos=1", nil, num(coap.Block2, block.number<<4|uint32(block.szx))), codes.Content, "*")
					text += string(r.Payload)
					v, _ := r.Options.GetBytes(coap.Block2)
					block, more = blockOf(uintOf(v))
				}
			}
			got[at] = text
		}
		for topic, text := range want {
			if got["/ps/"+topic] != text {
				t.Errorf("%s: got %q", topic, got["/ps/"+topic])
			}
		}
		m = d.message(typ, codes.GET, "all", "/ps/t/#?qos=1", nil, num(coap.Observe, 1))
		d.send(m)
		d.want(d.receive(), codes.Content, "")
	}

	// A message that isn't at QoS 0 is no answer that may be lost.
	d.send(d.message(coap.NonConfirmable, codes.GET, "non", "/ps/t/c/#?qos=1", nil, num(coap.Observe, 0)))
	d.want(d.receive(), codes.Content, "")
	if m := d.want(d.notification(), codes.Content, "three"); m.Type != coap.Confirmable {
		t.Errorf("got %v", m)
	}
	d.send(d.message(coap.NonConfirmable, codes.GET, "non", "/ps/t/c/#?qos=1", nil, num(coap.Observe, 1)))
	d.want(d.receive(), codes.Content, "")

	// It waits for those that come by way of the queue of a durable session.
	for range 10 {
		with := "&token=" + string(d.want(d.ask(codes.POST, "/mqtt/connection?clientid=c&expiry=60", nil), codes.Created, "*").Payload)
		d.want(d.ask(codes.GET, "/ps/t/c/#?qos=1"+with, nil, num(coap.Observe, 0)), codes.Content, "three")
		d.want(d.ask(codes.DELETE, "/mqtt/connection?clientid=c"+with, nil), codes.Deleted, "")
	}

	// What there is no retained message of has an empty one.
	m := d.want(d.ask(codes.GET, "/ps/t/none/#", nil, num(coap.Observe, 0)), codes.Content, "")
	if uintOption(m, coap.Observe) == "none" {
		t.Error("it isn't observed")
	}
	// A Content-Format that isn't accepted ends it.
	d.want(d.ask(codes.GET, "/ps/t/f/#", nil, num(coap.Observe, 0), num(coap.Accept, 50)), codes.Content, "")
	other := b.device()
	other.want(other.ask(codes.PUT, "/ps/t/f/x", []byte("{}"), num(coap.ContentFormat, 50)), codes.Changed, "")
	d.want(d.notification(), codes.Content, "{}")
	other.want(other.ask(codes.PUT, "/ps/t/f/x?retain=true", []byte("<x/>"), num(coap.ContentFormat, 41)), codes.Changed, "")
	d.want(d.receive(), codes.NotAcceptable, "*")
	await(t, func() bool { return b.observations.Load() == 0 })
	d.want(d.ask(codes.GET, "/ps/t/f/#", nil, num(coap.Observe, 0), num(coap.Accept, 50)), codes.NotAcceptable, "*")
	if n := b.observations.Load(); n != 0 {
		t.Errorf("%d observations", n)
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for end := time.Now().Add(30 * time.Second); !done(); <-look.C {
		if time.Now().After(end) {
			t.Fatal("it takes too long")
		}
	}
}

func TestLibcoap(t *testing.T) {
	t.Parallel()
	b := mustBridge(t, Options{})
	sub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	sub.Subscribe("t/#", 1)
	big := filepath.Join(t.TempDir(), "big")
	body := bytes.Repeat([]byte("0123456789abcde\n"), 6400)
	if err := os.WriteFile(big, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := b.libcoap("", "-m", "put", "-f", big, "-b", "1024", "/ps/t/big?retain=true"); strings.Contains(out, "4.") {
		t.Error(out)
	}
	sub.Acknowledge(sub.ExpectPublish("t/big", string(body)))
	got := filepath.Join(t.TempDir(), "got")
	if out := b.libcoap("", "-m", "get", "-o", got, "/ps/t/big"); strings.Contains(out, "4.") {
		t.Error(out)
	}
	if text, err := os.ReadFile(got); err != nil || !bytes.Equal(text, body) {
		t.Errorf("got %d bytes, %v", len(text), err)
	}

	pub := brokertest.Connect(t, b.broker.Addr, codec.V5)
	pub.Publish("t/obs/x/y", "retained", 1, brokertest.Retained)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "coap-client-openssl", "-s", "60", "-w", "coap://"+b.addr+"/ps/t/obs/%23")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for i, text := range []string{"retained", "one", "two", strings.Repeat("large ", 1000), "three"} {
		if i > 0 {
			pub.Publish("t/obs/x/y", text, 1)
		}
		for { // the first answer may be an empty line
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line = strings.TrimSuffix(line, "\n"); line != "" {
				if strings.TrimSpace(line) != strings.TrimSpace(text) {
					t.Errorf("got %q, want %q", line, text)
				}
				break
			}
		}
	}
	cancel()
	_ = cmd.Wait()
}
