package opcuatest

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"loopmq/internal/child"
)

// patience is how long a server has for an answer.
const patience = time.Minute

// Server is a server of node-opcua.
type Server struct {
	// Options are those of server.js; they take effect at the next Restart.
	Options map[string]any
	// Certificate is the server's own.
	Certificate *x509.Certificate

	t       testing.TB
	process *child.Process
	stdin   io.WriteCloser
	lines   chan string
}

// Start starts a server, and returns when it listens. Options are those of server.js.
func Start(t testing.TB, options map[string]any) *Server {
	t.Helper()
	dir := t.TempDir()
	cert, _ := MustCertificate(t, dir, "server", "urn:test:server")
	s := &Server{t: t, Certificate: cert, Options: map[string]any{
		"port": child.FreePort(), "pki": filepath.Join(dir, "pki"), "certificate": filepath.Join(dir, "server.pem"), "key": filepath.Join(dir, "server.key"),
	}}
	maps.Copy(s.Options, options)
	s.start()
	t.Cleanup(s.Kill)
	return s
}

// folder returns where server.js and its packages are.
func folder() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		peer := filepath.Join(dir, "internal/peers/nodeopcua")
		if _, missing := os.Stat(filepath.Join(peer, "server.js")); missing == nil {
			if _, missing := os.Stat(filepath.Join(peer, "node_modules/node-opcua/package.json")); missing != nil {
				return "", fmt.Errorf("node-opcua isn't installed: npm ci in %s, or make test, which does it", peer)
			}
			return peer, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("there is no internal/peers/nodeopcua above this folder")
		}
	}
	return "", err
}

func (s *Server) start() {
	s.t.Helper()
	dir, err := folder()
	if err != nil {
		s.t.Fatal(err)
	}
	arguments, err := json.Marshal(s.Options)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("node", filepath.Join(dir, "server.js"), string(arguments))
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	r, w := io.Pipe()
	cmd.Stdout = w
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if s.process, err = child.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	lines, process := make(chan string, 16), s.process
	s.lines = lines
	go func() {
		<-process.Ended
		_ = w.Close()
	}()
	go func() {
		defer close(lines)
		in := bufio.NewScanner(r)
		for in.Scan() {
			if strings.HasPrefix(in.Text(), `{"`) { // it has warnings of its own
				lines <- in.Text()
			}
		}
	}()
	if _, ok := <-lines; !ok { // as long as it takes to start: go test has a limit
		s.t.Fatalf("node-opcua ended: %s", stderr.String())
	}
}

// Kill ends the server as kill -9 does.
func (s *Server) Kill() { s.process.Kill() }

// Restart starts a server that was killed, at the same port.
func (s *Server) Restart() {
	s.t.Helper()
	s.start()
}

// Do has the server execute a command of server.js, with names and values of arguments in turn, and returns the answer.
func (s *Server) Do(command string, arguments ...any) any {
	s.t.Helper()
	c := map[string]any{"do": command}
	for i := 0; i < len(arguments); i += 2 {
		c[arguments[i].(string)] = arguments[i+1]
	}
	b, err := json.Marshal(c)
	if err == nil {
		_, err = s.stdin.Write(append(b, '\n'))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	var answer struct {
		Value any
		Error string
	}
	select {
	case line := <-s.lines:
		if err := json.Unmarshal([]byte(line), &answer); err != nil || answer.Error != "" {
			s.t.Fatalf("node-opcua: %s: %s %v", command, line, err)
		}
	case <-time.After(patience):
		s.t.Fatalf("node-opcua: %s: no answer within %v", command, patience)
	}
	return answer.Value
}

// Addr returns where the server listens.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.Options["port"]) }

// URL returns that of the server at addr, which is its own, or that of a Proxy.
func URL(addr string) string { return "opc.tcp://" + addr + "/UA/Test" }
