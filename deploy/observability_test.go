package deploy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// rules is a file of Prometheus, as far as these tests look at it.
type rules struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
}

func readRules(t *testing.T) (r rules) {
	t.Helper()
	text, err := os.ReadFile("prometheus/loopmq.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Each alert fires for what it should, as promtool sees it.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("promtool", "test", "rules", "loopmq.test.yml")
	cmd.Dir = "prometheus"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
	text, err := os.ReadFile("prometheus/loopmq.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if !strings.Contains(string(text), `{alertname="`+r.Alert+`"`) {
				t.Errorf("loopmq.test.yml doesn't expect %s to fire", r.Alert)
			}
			if s := r.Labels["severity"]; s != "critical" && s != "warning" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s: severity %q, annotations %q", r.Alert, s, r.Annotations)
			}
		}
	}
}

// query is an expression of the dashboard or of an alert, with the labels that its legend or its texts take from the result.
type query struct {
	where, expr string
	labels      []string
}

var (
	usedLabel = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}`)
	selector  = regexp.MustCompile(`\b(?:[a-z]\w*_\w+|up|ALERTS)\b(?:\{[^}]*\})?`)
	grouping  = regexp.MustCompile(`\b(?:by|without|on|ignoring) ?\(([^)]*)\)`)
	function  = regexp.MustCompile(`\b\w+ ?\(`)
	known     = regexp.MustCompile(`\b(?:sum|max|min|or|and)\b`)
	quoted    = regexp.MustCompile(`"[^"]*"`)
)

func labelsIn(text string) (labels []string) {
	for _, m := range usedLabel.FindAllStringSubmatch(text, -1) {
		labels = append(labels, m[1])
	}
	return labels
}

// queries are all expressions of dashboard and rules, with values for the dashboard's variables.
func queries(t *testing.T) (all []query) {
	t.Helper()
	text, err := os.ReadFile("grafana/loopmq.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr, LegendFormat string }
		}
		Annotations struct {
			List []struct{ Expr, TextFormat string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$job", ".*", "$instance", ".*", "$__rate_interval", "1m")
	for _, p := range dashboard.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			all = append(all, query{"panel " + p.Title, variables.Replace(target.Expr), labelsIn(target.LegendFormat)})
		}
	}
	for _, a := range dashboard.Annotations.List {
		all = append(all, query{"annotation", a.Expr, labelsIn(a.TextFormat)})
	}
	for _, v := range dashboard.Templating.List {
		if m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Definition); m != nil {
			all = append(all, query{"variable " + v.Name, variables.Replace(m[1]), m[2:]})
		}
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			var texts strings.Builder
			for _, text := range r.Annotations {
				texts.WriteString(text)
			}
			all = append(all, query{"alert " + r.Alert, r.Expr, labelsIn(texts.String())})
		}
	}
	if len(all) < 50 {
		t.Fatalf("%d queries", len(all))
	}
	return all
}

// What dashboard and alerts ask for is there: a real Prometheus, as local.sh starts it beside a node, HAProxy and an endpoint of webhooks,
// answers each expression and finds series for each selector, label values included.
func TestDashboardAndAlertsFindMetrics(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "loopmq.yaml")
	const text = "webhooks:\n  - {name: nowhere, url: 'http://127.0.0.1:9/', allow: 127.0.0.1, events: [client.connected]}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := mustUpWith(t, "--nodes", "1", "--store", "memory", "--", "--config", config)
	// A packet that is none, so that there is a protocol error.
	if _, err := mustConnect(t, c.env["NODE1_MQTT"], "wrong").Write([]byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	api := "http://" + c.env["PROMETHEUS"] + "/api/v1/"
	found := map[string]bool{} // by selector
	find := func(selector string) bool {
		for deadline := time.Now().Add(patience); !found[selector]; time.Sleep(100 * time.Millisecond) {
			var series []map[string]string
			ask(t, api+"series?match[]="+url.QueryEscape(selector), &series)
			if found[selector] = len(series) > 0; found[selector] || time.Now().After(deadline) {
				break
			}
		}
		return found[selector]
	}
	all := queries(t)
	if !find("up") || !find(`loopmq_protocol_errors_total`) || !find("haproxy_server_status") {
		t.Fatal("Prometheus scrapes neither node nor HAProxy")
	}
	var labels []string
	ask(t, api+"labels", &labels)
	for _, q := range all {
		var result json.RawMessage
		ask(t, api+"query?query="+url.QueryEscape(q.expr), &result)
		for _, m := range grouping.FindAllStringSubmatch(q.expr, -1) {
			q.labels = append(q.labels, strings.Split(m[1], ", ")...)
		}
		for _, l := range q.labels {
			if !slices.Contains(labels, l) && l != "alertname" {
				t.Errorf("%s: nothing has the label %q", q.where, l)
			}
		}
		rest := grouping.ReplaceAllString(q.expr, "")
		rest = function.ReplaceAllString(rest, "(")
		for _, s := range selector.FindAllString(rest, -1) {
			if !strings.HasPrefix(s, "ALERTS") && !find(s) {
				t.Errorf("%s: nothing has %s", q.where, s)
			}
		}
		// What is left are operators, numbers and durations.
		rest = known.ReplaceAllString(quoted.ReplaceAllString(selector.ReplaceAllString(rest, ""), ""), "")
		if word := regexp.MustCompile(`\b[a-zA-Z_]{2,}\b`).FindString(rest); word != "" {
			t.Errorf("%s: what is %s in %s?", q.where, word, q.expr)
		}
	}
	t.Logf("%d expressions, %d selectors", len(all), len(found))

	// The alerts are loaded and can be evaluated.
	var groups struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	wanted := map[string]bool{}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			wanted[r.Alert] = true
		}
	}
	for deadline := time.Now().Add(patience); len(wanted) > 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		ask(t, api+"rules", &groups)
		for _, g := range groups.Groups {
			for _, r := range g.Rules {
				if r.Health == "ok" {
					delete(wanted, r.Name)
				} else if r.Health != "unknown" {
					t.Fatalf("%s: %s", r.Name, r.LastError)
				}
			}
		}
	}
	if len(wanted) > 0 {
		t.Errorf("not evaluated: %s", slices.Sorted(maps.Keys(wanted)))
	}
}

// ask asks Prometheus and decodes what it answers.
func ask(t *testing.T, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	for deadline := time.Now().Add(patience); err == nil && resp.StatusCode == http.StatusServiceUnavailable && time.Now().Before(deadline); {
		_ = resp.Body.Close() // it still starts
		time.Sleep(100 * time.Millisecond)
		resp, err = http.Get(url)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: into}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatal(fmt.Errorf("%s: %s: %w", url, answer.Error, err))
	}
}
