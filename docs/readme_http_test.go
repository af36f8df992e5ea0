package docs_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The curl lines of README.md do what it says.
func TestPublishWithOneHTTPRequest(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "README.md"), "\n## Publish with one HTTP request\n")
	section, _, _ = strings.Cut(section, "\n## ")
	commands, outputs := blocks(section, "sh"), blocks(section, "text")
	if len(commands) != 4 || len(outputs) != 1 {
		t.Fatalf("README.md has %d commands and %d outputs, want a stream, publications, a device and a request", len(commands), len(outputs))
	}
	_, http, admin := serveAll(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	shell := func(command string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "bash", "-ec", strings.ReplaceAll(command, "127.0.0.1:8080", http))
		cmd.WaitDelay = time.Second // what it has started may have its output
		return cmd
	}
	streams := func(n int) {
		t.Helper()
		for !strings.Contains(get(t, "http://"+admin+"/metrics"), fmt.Sprintf("\nloopmq_http_streams %d\n", n)) {
			if ctx.Err() != nil {
				t.Fatalf("there are not %d streams", n)
			}
		}
	}

	var got bytes.Buffer
	stream := shell("exec " + commands[0]) // curl itself, so that it can be killed
	stdout, err := stream.StdoutPipe()
	if err == nil {
		err = stream.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	streams(1)
	if out, err := shell(commands[1]).Output(); err != nil || !strings.HasSuffix(string(out), "\nhello again") || strings.Count(string(out), `"status":"ok"`) != 2 {
		t.Errorf("%s printed %q (%v)", commands[1], out, err)
	}
	for buf := make([]byte, 4096); !strings.Contains(got.String(), outputs[0]); {
		n, err := stdout.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Errorf("%s printed %q (%v), want %q", commands[0], got.String(), err, outputs[0])
			break
		}
	}
	_ = stream.Process.Kill()
	_ = stream.Wait()
	streams(0)

	device := shell(commands[2])
	if err := device.Start(); err != nil {
		t.Fatal(err)
	}
	streams(1)
	command, want, _ := strings.Cut(strings.TrimSpace(commands[3]), " # ")
	if out, err := shell(command).Output(); err != nil || string(out) != strings.TrimSpace(want) {
		t.Errorf("%s printed %q (%v), want %q", command, out, err, want)
	}
	cancel()
	_ = device.Wait()
}
