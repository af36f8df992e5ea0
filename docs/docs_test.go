// Package docs_test holds the documentation to the code: generated tables are up to date, whatever the code has is mentioned, links lead
// somewhere, and the commands and programs that are shown work.
package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"loopmq"
	"loopmq/internal/brokertest"
	"loopmq/loadtest"
	"loopmq/metrics"
)

var rewrite = flag.Bool("rewrite", false, "write the generated part of metrics.md instead of comparing it")

// read returns a file of the repository, named from its root.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// mentions complains of each word that is not in the document as code.
func mentions(t *testing.T, document string, words ...string) {
	t.Helper()
	text := read(t, document)
	for _, word := range words {
		if !strings.Contains(text, "`"+word+"`") && !strings.Contains(text, "`"+word+" ") {
			t.Errorf("%s doesn't mention `%s`", document, word)
		}
	}
}

func TestMetricsTable(t *testing.T) {
	var table strings.Builder
	table.WriteString("| name | type | labels | what |\n|---|---|---|---|\n")
	for _, f := range metrics.Families() {
		labels := strings.ReplaceAll(f.Labels, ",", ", ")
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", f.Name, f.Type, labels, f.Help)
	}
	held(t, "docs/metrics.md", "families", table.String(), "metrics/names.go")
}

// held fails if the part of a document between <!-- name --> and <!-- end of name --> isn't want, which is made from another file; with
// -rewrite it writes it.
func held(t *testing.T, document, name, want, from string) {
	t.Helper()
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	before, rest, ok := strings.Cut(read(t, document), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks %q or %q", document, begin, end)
	}
	if *rewrite {
		if err := os.WriteFile(filepath.Join("..", document), []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want {
		t.Errorf("the part %q of %s isn't that of %s: run go test ./docs -rewrite", name, document, from)
	}
}

// The alerts are those of the rules.
func TestAlertsTable(t *testing.T) {
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For string
				Annotations      map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/prometheus/loopmq.rules.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| alert | if | for | says |\n|---|---|---|---|\n")
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			expr := strings.ReplaceAll(r.Expr, "|", `\|`)
			fmt.Fprintf(&table, "| %s | `%s` | %s | %s |\n", r.Alert, expr, r.For, r.Annotations["description"])
		}
	}
	held(t, "docs/metrics.md", "alerts", table.String(), "deploy/prometheus/loopmq.rules.yml")
}

// The list is that of a broker: each metric that one writes is listed, and the other way round.
func TestMetricsOfABroker(t *testing.T) {
	if brokertest.Outside() {
		t.Skip("needs a broker in this process")
	}
	listed := map[string]bool{}
	for _, f := range metrics.Families() {
		listed[f.Name] = true
	}
	var text bytes.Buffer
	set := brokertest.Start(t).Broker.Metrics()
	set.Webhook("endpoint")
	set.OPCUA("endpoint")
	set.WritePrometheus(&text)
	written := map[string]bool{"loopmq_build_info": true} // which cmd/loopmq adds
	for line := range strings.Lines(text.String()) {
		if name, isType := strings.CutPrefix(line, "# TYPE "); isType {
			name, _, _ = strings.Cut(name, " ")
			written[name] = true
		}
	}
	for name := range written {
		if !listed[name] {
			t.Errorf("a broker writes %s, which docs/metrics.md doesn't list", name)
		}
	}
	for name := range listed {
		if !written[name] {
			t.Errorf("docs/metrics.md lists %s, which no broker writes", name)
		}
	}
}

func TestReasonsAreExplained(t *testing.T) {
	for r := range metrics.NumDropReasons {
		mentions(t, "docs/metrics.md", metrics.DropReason(r).String())
	}
	for r := range metrics.NumEventDropReasons {
		mentions(t, "docs/metrics.md", metrics.EventDropReason(r).String())
	}
	for r := range metrics.NumCloseReasons {
		mentions(t, "docs/metrics.md", metrics.CloseReason(r).String())
	}
	for r := range metrics.NumFrameReasons {
		mentions(t, "docs/metrics.md", metrics.FrameReason(r).String())
	}
	for r := range metrics.NumRefuseReasons {
		mentions(t, "docs/metrics.md", metrics.RefuseReason(r).String())
	}
	for r := range metrics.NumWebhookResults {
		mentions(t, "docs/metrics.md", metrics.WebhookResult(r).String())
	}
	for r := range metrics.NumOPCUAConnects {
		mentions(t, "docs/metrics.md", metrics.OPCUAConnect(r).String())
	}
	for r := range metrics.NumOPCUADrops {
		mentions(t, "docs/metrics.md", metrics.OPCUADrop(r).String())
	}
	for r := range metrics.NumOPCUACommands {
		mentions(t, "docs/metrics.md", metrics.OPCUACommand(r).String())
	}
	for e := range metrics.NumStreamEnds {
		mentions(t, "docs/metrics.md", metrics.StreamEnd(e).String())
	}
	for r := range metrics.NumAdminReasons {
		mentions(t, "docs/metrics.md", metrics.AdminReason(r).String())
	}
	for r := range metrics.NumHTTPReasons {
		mentions(t, "docs/metrics.md", metrics.HTTPReason(r).String())
	}
	for m := range metrics.NumAuthMethods {
		mentions(t, "docs/metrics.md", metrics.AuthMethod(m).String())
	}
	for r := range metrics.NumAuthResults {
		mentions(t, "docs/metrics.md", metrics.AuthResult(r).String())
	}
	for s := range metrics.NumBanSources {
		mentions(t, "docs/metrics.md", metrics.BanSource(s).String())
	}
}

func fields(v any) (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
		if f.IsExported() {
			names = append(names, f.Name)
		}
	}
	return names
}

func TestOptionsAreExplained(t *testing.T) {
	mentions(t, "docs/limits.md", fields(loopmq.Limits{})...)
	mentions(t, "docs/library.md", fields(loopmq.Options{})...)
	for k := range loopmq.NumEventKinds {
		mentions(t, "docs/library.md", loopmq.EventKind(k).String())
	}
}

// Each $SYS topic that sys.go publishes is listed, and each that is listed is published.
func TestSysTopicsAreListed(t *testing.T) {
	literal := regexp.MustCompile(`(?:set|number)\("([^"]+)"`)
	text := read(t, "docs/mqtt.md")
	_, list, _ := strings.Cut(text, "## $SYS topics\n")
	var published []string
	for _, m := range literal.FindAllStringSubmatch(read(t, "sys.go"), -1) {
		published = append(published, m[1])
		if !strings.Contains(list, "`"+m[1]+"`") {
			t.Errorf("docs/mqtt.md doesn't list $SYS/broker/%s", m[1])
		}
	}
	if len(published) < 15 {
		t.Fatalf("found only %d topics in sys.go: does it look otherwise now?", len(published))
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`{]+)` \\|").FindAllStringSubmatch(list, -1) {
		if !slices.Contains(published, m[1]) {
			t.Errorf("docs/mqtt.md lists $SYS/broker/%s, which sys.go doesn't publish", m[1])
		}
	}
}

// ARCHITECTURE.md has a line for each file of the packages that it explains.
func TestFilesAreExplained(t *testing.T) {
	text := read(t, "ARCHITECTURE.md")
	for _, dir := range []string{
		".", "eventloop", "eventloop/websocket", "codec", "trie", "session", "store", "store/memory", "store/storetest", "rate", "metrics", "bridges/http", "bridges/coap", "bridges/opcua", "bridges/opcua/server", "cmd/loopmq",
		"cmd/loadtest", "loadtest/capacity", "loadtest/chart", "loadtest/plan", "loadtest/report", "loadtest/scrape",
	} {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no files in %s (%v)", dir, err)
		}
		_, section, _ := strings.Cut(text, "\n### "+heading(dir)+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		for _, file := range files {
			name := filepath.Base(file)
			if name == "doc.go" || name == "errors.go" { // the same everywhere
				continue
			}
			if !strings.HasSuffix(name, "_test.go") && !strings.Contains(section, "`"+name+"`") {
				t.Errorf("ARCHITECTURE.md, section %q, doesn't say what is in %s", heading(dir), name)
			}
		}
		for _, m := range regexp.MustCompile("`([a-z0-9_]+\\.go)`").FindAllStringSubmatch(section, -1) {
			if _, err := os.Stat(filepath.Join("..", dir, m[1])); err != nil {
				t.Errorf("ARCHITECTURE.md, section %q, explains %s, which isn't there", heading(dir), m[1])
			}
		}
	}
}

func heading(dir string) string {
	if dir == "." {
		return "The root package"
	}
	return dir
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

func TestLinksLeadSomewhere(t *testing.T) {
	documents, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range append(documents, "../README.md", "../ARCHITECTURE.md", "../CHANGELOG.md") {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", document, m[1], err)
			}
		}
	}
}

// The Go blocks of library.md are one program, which compiles.
func TestLibraryProgramCompiles(t *testing.T) {
	var program strings.Builder
	for _, block := range blocks(read(t, "docs/library.md"), "go") {
		program.WriteString(block)
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte(program.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	// An overlay puts the file into the module, without writing there.
	here, err := filepath.Abs("library_program/main.go")
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace": {%q: %q}}`, here, source), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", os.DevNull, "./library_program").CombinedOutput(); err != nil {
		t.Errorf("the program of docs/library.md doesn't compile: %v\n%s", err, out)
	}
}

// blocks returns the contents of a document's fenced blocks in one language.
func blocks(document, language string) (found []string) {
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(document, -1) {
		if m[1] == language {
			found = append(found, m[2])
		}
	}
	return found
}

// The commands of README.md, against the broker that `make run` would start, print what README.md says.
func TestFirstPublishAndSubscribe(t *testing.T) {
	first, _, _ := strings.Cut(read(t, "README.md"), "\n## Publish with one HTTP request\n")
	commands, outputs := blocks(first, "sh"), blocks(first, "text")
	if len(commands) != 2 || len(outputs) == 0 {
		t.Fatalf("README.md has %d commands and %d outputs, want to subscribe, to publish, and what comes of it", len(commands), len(outputs))
	}
	tcp, admin := serve(t) // builds it first, which may take long
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	// What waits for Ctrl-C in a terminal ends after one message here, and both go to the port that was free.
	port := tcp[strings.LastIndexByte(tcp, ':')+1:]
	shell := func(extra, command string) *exec.Cmd {
		command, ok := strings.CutPrefix(command, "mosquitto_")
		if !ok {
			t.Fatalf("README.md runs %q, which this test doesn't know", command)
		}
		name, rest, _ := strings.Cut(command, " ")
		return exec.CommandContext(ctx, "sh", "-c", "mosquitto_"+name+" -p "+port+" "+extra+" "+rest)
	}
	var got bytes.Buffer
	subscriber := shell("-C 1", commands[0])
	subscriber.Stdout, subscriber.Stderr = &got, &got
	if err := subscriber.Start(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(get(t, "http://"+admin+"/metrics"), "\nloopmq_subscriptions 1\n") {
		if ctx.Err() != nil {
			t.Fatalf("nobody subscribes: %s", got.String())
		}
	}
	if out, err := shell("", commands[1]).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", commands[1], err, out)
	}
	if err := subscriber.Wait(); err != nil || got.String() != outputs[0] {
		t.Errorf("%s printed %q (%v), want %q", commands[0], got.String(), err, outputs[0])
	}

	urls := regexp.MustCompile(`curl http://127.0.0.1:8081(/\w+)`).FindAllStringSubmatch(read(t, "README.md"), -1)
	for _, m := range urls {
		get(t, "http://"+admin+m[1])
	}
	if len(urls) == 0 {
		t.Error("README.md doesn't show metrics and health")
	}
}

// get returns the body of a page that is there.
func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s (%v)", url, resp.Status, err)
	}
	return string(body)
}

// built is where command put the program; TestMain removes it.
var built string

// command builds the program, once.
var command = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "loopmq-docs")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "loopmq")
	if out, err := exec.Command("go", "build", "-o", path, "../cmd/loopmq").CombinedOutput(); err != nil {
		return path, fmt.Errorf("build cmd/loopmq: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// serve starts the program on free ports, and stops it when the test ends: it has to exit with 0.
func serve(t *testing.T) (tcp, admin string) {
	t.Helper()
	tcp, _, admin = serveAll(t)
	return tcp, admin
}

// serveAll is serve, with the address for HTTP.
func serveAll(t *testing.T) (tcp, http, admin string) {
	t.Helper()
	path, err := command()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "serve", "--tcp", "127.0.0.1:0", "--ws", "off", "--http", "127.0.0.1:0", "--coap", "off", "--admin", "127.0.0.1:0", "--log-format", "json",
		"--store", "pebble:"+t.TempDir())
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_, _ = io.Copy(io.Discard, log)
		if err := cmd.Wait(); err != nil {
			t.Errorf("loopmq serve: %v", err)
		}
	})
	var first struct{ TCP, HTTP, Admin string }
	if err := json.NewDecoder(log).Decode(&first); err != nil {
		t.Fatalf("the first line of the log: %v", err)
	}
	return first.TCP, first.HTTP, first.Admin
}

// docs/cli.md has each flag of serve with its default, and each exit code.
func TestFlagsAreExplained(t *testing.T) {
	path, err := command()
	if err != nil {
		t.Fatal(err)
	}
	help, err := exec.Command(path, "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, "docs/cli.md")
	flags := regexp.MustCompile(`(?m)^  (--[a-z-]+)( [A-Z]+)?`).FindAllStringSubmatch(string(help), -1)
	if len(flags) < 5 {
		t.Fatalf("found %d flags in: %s", len(flags), help)
	}
	for _, f := range flags {
		if !strings.Contains(text, "| `"+f[1]+f[2]+"` |") {
			t.Errorf("docs/cli.md doesn't explain %s%s", f[1], f[2])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(--[a-z-]+)").FindAllStringSubmatch(text, -1) {
		if !strings.Contains(string(help), m[1]) {
			t.Errorf("docs/cli.md explains %s, which serve doesn't have", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`\(default ([^)]+)\)`).FindAllStringSubmatch(string(help), -1) {
		if !strings.Contains(text, "`"+m[1]+"`") {
			t.Errorf("docs/cli.md doesn't have the default %s", m[1])
		}
	}
	// The commands that it shows do what it shows.
	session := regexp.MustCompile(`(?m)^    \$ loopmq (.*)\n((?:    loopmq: .*\n)+)`).FindStringSubmatch(text)
	if session == nil {
		t.Fatal("docs/cli.md shows no mistake")
	}
	out, err := exec.Command(path, strings.Fields(session[1])...).CombinedOutput()
	if want := strings.ReplaceAll(session[2], "    loopmq", "loopmq"); err == nil || string(out) != want {
		t.Errorf("loopmq %s printed\n%swant\n%s", session[1], out, want)
	}
}

// docs/loadtest.md has the shapes of scenarios, the figures of objectives, and the flags that change what is run, seen and written.
func TestLoadTestIsExplained(t *testing.T) {
	var words []string
	for _, name := range loadtest.PresetNames() {
		s, err := loadtest.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		words = append(words, string(s.Shape))
	}
	mentions(t, "docs/loadtest.md", append(words, "p50", "p90", "p99", "p99.9", "max", "mean", "loss", "duplicates", "reordered", "errors", "rate", "cpu", "memory")...)
	mentions(t, "docs/loadtest.md", "--html FILE", "--json FILE", "--metrics URL,URL", "--metrics-token-file", "--broker-pid", "--rate", "--window", "--scale 0.1",
		"--reconnect", "--kill '5s: COMMAND'", "--precision", "--trials")
}
