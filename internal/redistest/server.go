package redistest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"loopmq/internal/child"
)

// startTimeout is how long a redis-server may take until it answers, on a busy
// machine and with a file to load.
const startTimeout = 30 * time.Second

// Server is one redis-server. Its methods are for one goroutine at a time; clients
// may be used by many.
type Server struct {
	// Addr is its host:port. It stays the same over restarts.
	Addr string
	// Dir holds its configuration, log and data.
	Dir string

	t       TB
	program string
	args    []string
	client  *redis.Client
	process *child.Process // nil while it doesn't run
}

// Start starts a redis-server that survives a kill (appendonly, appendfsync
// always), and waits until it answers. Directives are lines of redis.conf that are
// added to that, such as "appendfsync everysec" or "maxmemory 64mb". The server is
// killed at the end of the test.
func Start(t TB, directives ...string) *Server {
	t.Helper()
	return start(t, append([]string{
		"save \"\"",
		"appendonly yes",
		"appendfsync always",
	}, directives...))
}

// URL is where the server is, as a redis:// URL.
func (s *Server) URL() string { return "redis://" + s.Addr + "/0" }

// Client returns a client of the server for what a test wants to look at. It is
// closed at the end of the test.
func (s *Server) Client() *redis.Client { return s.client }

// Port is the port of Addr.
func (s *Server) Port() int {
	_, port, _ := net.SplitHostPort(s.Addr)
	n, _ := strconv.Atoi(port)
	return n
}

// Kill ends the server as kill -9 does, and returns when it is gone.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	s.process.Kill()
	s.process = nil
}

// Restart starts the server again at the same address, with the data that it has
// left, and waits until it answers. It kills one that still runs.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.run(); err != nil {
		s.t.Fatalf("redistest: %v", err)
	}
}

// Stop halts the server without ending it (SIGSTOP): connections stay, nothing is
// answered. Cont lets it go on.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Cont undoes Stop.
func (s *Server) Cont() { s.signal(syscall.SIGCONT) }

// Replicated waits until a replica has connected and has all that was written.
func (s *Server) Replicated() {
	s.t.Helper()
	await(s.t, "a replica that has caught up with "+s.Addr, func(ctx context.Context) bool {
		fields := s.info(ctx, "replication")
		offset := "offset=" + fields["master_repl_offset"] + ","
		return strings.Contains(fields["slave0"]+",", "state=online,") && strings.Contains(fields["slave0"]+",", offset)
	})
}

func (s *Server) signal(sig syscall.Signal) {
	if s.process != nil {
		_ = s.process.Cmd.Process.Signal(sig)
	}
}

// info returns the fields of a section of INFO, none if the server doesn't answer.
func (s *Server) info(ctx context.Context, section string) map[string]string {
	text, _ := s.client.Info(ctx, section).Result()
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

// start makes a Server with these lines in its configuration and runs it.
func start(t TB, directives []string, args ...string) *Server {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("redistest: these tests need a redis-server, 7.0 or newer: run 'scripts/test-deps.sh', or " +
			"'apt-get install redis-server', or put one into the PATH")
	}
	s := &Server{t: t, Dir: t.TempDir(), program: program}
	t.Cleanup(func() {
		s.Kill()
		if s.client != nil {
			_ = s.client.Close()
		}
	})
	for range 10 {
		// Another program may take the port before the server has it.
		if err = s.configure(child.FreePort(), directives, args); err == nil {
			if err = s.run(); err == nil {
				return s
			}
		}
		if !errors.Is(err, errAddressInUse) {
			break
		}
	}
	t.Fatalf("redistest: %v", err)
	return nil
}

func (s *Server) configure(port int, directives, args []string) error {
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	config := filepath.Join(s.Dir, "redis.conf")
	s.args = append([]string{config}, args...)
	if s.client != nil {
		_ = s.client.Close()
	}
	s.client = redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1, ContextTimeoutEnabled: true})
	lines := append([]string{
		fmt.Sprintf("port %d", port),
		"bind 127.0.0.1",
		"dir " + strconv.Quote(s.Dir),
		"logfile " + strconv.Quote(filepath.Join(s.Dir, "redis.log")),
		"daemonize no",
	}, directives...)
	return os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

var errAddressInUse = errors.New("address in use")

// run starts the process and returns when it answers.
func (s *Server) run() error {
	p, err := child.Start(exec.Command(s.program, s.args...))
	if err != nil {
		return fmt.Errorf("start %s: %w", s.program, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		if err = s.client.Ping(ctx).Err(); err == nil {
			break
		}
		select {
		case <-p.Ended:
			return s.diagnosis()
		case <-ctx.Done():
			p.Kill()
			return fmt.Errorf("%s doesn't answer at %s: %w", s.program, s.Addr, err)
		case <-time.After(2 * time.Millisecond):
		}
	}
	// What answers may be another program that was first to take the port.
	if pid := s.info(ctx, "server")["process_id"]; pid != strconv.Itoa(p.Cmd.Process.Pid) {
		p.Kill()
		return fmt.Errorf("%w: %s", errAddressInUse, s.Addr)
	}
	s.process = p
	return nil
}

// diagnosis says why a server has ended, by the last lines of its log.
func (s *Server) diagnosis() error {
	f, err := os.Open(filepath.Join(s.Dir, "redis.log"))
	if err != nil {
		return fmt.Errorf("%s ended without a log: run '%s %s'", s.program, s.program, strings.Join(s.args, " "))
	}
	defer f.Close()
	var last []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if last = append(last, lines.Text()); len(last) > 5 {
			last = last[1:]
		}
	}
	text := strings.Join(last, "\n")
	if strings.Contains(text, "Address already in use") {
		return fmt.Errorf("%w: %s", errAddressInUse, text)
	}
	return fmt.Errorf("%s ended:\n%s", s.program, text)
}

// await returns when cond holds, and fails the test if that takes too long.
func await(t TB, what string, cond func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for !cond(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("redistest: no %s within %v", what, startTimeout)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
