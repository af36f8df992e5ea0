package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// Every statement that binds a Server has a test or a reason for having none.
func TestEveryStatementHasATest(t *testing.T) {
	reports, err := collect(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(reports) == 0 {
		t.Fatal("no tests of any standard found")
	}
	if err := check(reports); err != nil {
		t.Error(err)
	}
}

// docs/conformance.md is what the command writes.
func TestDocumentIsUpToDate(t *testing.T) {
	reports, err := collect(root)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	render(&want, reports)
	got, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is stale: run `make conformance`", document)
	}
}

// repository is a small one: its files by path.
func repository(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const list = "# comment\nMQTT-1.0-1\tMust\tServer\tA | B.\nMQTT-1.0-2\tMustNot\tBoth\tC.\nMQTT-1.0-3\tMay\tClient\tD.\n"

func TestReport(t *testing.T) {
	dir := repository(t, map[string]string{
		"x/a_test.go": `package x

// [MQTT-1.0-1] [MQTT-9.9-9] Shows something.
func TestMQTT_1_0_1_Something(t *testing.T) {}

func TestMain(m *testing.M) {}

func helper() {}
`,
	})
	for _, test := range []struct {
		name, unobservable string
		wantErrors         []string
		wantLine           string
	}{
		{"missing", "", []string{"no test for MQTT-1.0-2: C.", "cites MQTT-9.9-9"}, "| MQTT-1.0-2 | must not | Both | C. | **missing** |"},
		{
			"unobservable", "5.0\tMQTT-1.0-2\tBecause.\nother\tMQTT-7.7-7\t.\n",
			[]string{"cites MQTT-9.9-9"},
			"| MQTT-1.0-2 | must not | Both | C. | not observable: Because. |",
		},
		{
			"unobservable with a test", "5.0\tMQTT-1.0-1\tBecause.\n5.0\tMQTT-8.8-8\tBecause.\n",
			[]string{"MQTT-1.0-1 isn't", "MQTT-8.8-8 isn't"},
			`| MQTT-1.0-1 | must | Server | A \| B. | [MQTT_1_0_1_Something](../x/a_test.go) |`,
		},
		{"client", "", nil, "| MQTT-1.0-3 | may | Client | D. | – |"},
		{"counts", "5.0\tMQTT-1.0-2\tBecause.\n", nil, "| MQTT 5.0 | 3 | 2 | 1 | 1 |"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cited, err := citations(filepath.Join(dir, "x"), "x")
			if err != nil {
				t.Fatal(err)
			}
			r, err := combine(standard{"5.0", list, "x"}, cited, test.unobservable)
			if err != nil {
				t.Fatal(err)
			}
			err = check([]report{r})
			for _, want := range test.wantErrors {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want one with %q", err, want)
				}
			}
			var b bytes.Buffer
			render(&b, []report{r})
			if !strings.Contains(b.String(), test.wantLine+"\n") {
				t.Errorf("got\n%s\nwant the line\n%s", b.String(), test.wantLine)
			}
		})
	}
}

func TestWrongInput(t *testing.T) {
	for name, source := range map[string]string{
		"no Go":          "package",
		"no comment":     "package x\n\nfunc TestMQTT_1_0_1_X() {}\n",
		"no citation":    "package x\n\n// Nothing.\nfunc TestMQTT_1_0_1_X() {}\n",
		"other citation": "package x\n\n// [MQTT-1.0-2]\nfunc TestMQTT_1_0_1_X() {}\n",
		"longer number":  "package x\n\n// [MQTT-1.0-1]\nfunc TestMQTT_1_0_11_X() {}\n",
		"other name":     "package x\n\n// [MQTT-1.0-1]\nfunc TestSomething() {}\n",
	} {
		dir := repository(t, map[string]string{"a_test.go": source})
		if got, err := citations(dir, "x"); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
	for name, lists := range map[string][2]string{
		"statement twice":        {"MQTT-1.0-1\tMust\tBoth\tA.\nMQTT-1.0-1\tMust\tBoth\tA.\n", ""},
		"statement with 3 cells": {"MQTT-1.0-1\tMust\tBoth\n", ""},
		"reason with 2 cells":    {"", "5.0\tMQTT-1.0-1\n"},
	} {
		if _, err := combine(standard{"5.0", lists[0], "x"}, nil, lists[1]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The document is written though statements are missing, so that one can see which, and the command fails.
func TestWrite(t *testing.T) {
	dir := repository(t, map[string]string{
		"docs/.keep":               "",
		"conformance/v5/x_test.go": "package v5\n\n// [MQTT-3.1.0-1]\nfunc TestMQTT_3_1_0_1_X() {}\n",
	})
	if err := write(dir); err == nil || !strings.Contains(err.Error(), "no test for MQTT-3.1.0-2") {
		t.Errorf("got error %v, want one with the statements that lack a test", err)
	}
	got, err := os.ReadFile(filepath.Join(dir, document))
	if err != nil || !strings.Contains(string(got), "[MQTT_3_1_0_1_X](../conformance/v5/x_test.go)") {
		t.Errorf("got error %v and the document\n%s", err, got)
	}
	if err := write(repository(t, map[string]string{"conformance/v5/x_test.go": "package"})); err == nil {
		t.Error("no error for tests that don't parse")
	}
	if err := write(t.TempDir()); err == nil {
		t.Error("no error without docs")
	}
}

// The lists hold what the standards number: 251 statements and 142.
func TestLists(t *testing.T) {
	for _, s := range standards {
		r, err := combine(s, nil, unobservable)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"5.0": 251, "3.1.1": 142}[s.name]
		if len(r.statements) != want || len(r.unknown) != 0 {
			t.Errorf("MQTT %s: got %d statements, want %d; %q", s.name, len(r.statements), want, r.unknown)
		}
		for _, st := range r.statements {
			switch st.level {
			case "Must", "MustNot", "May":
			default:
				t.Errorf("%s: level %q", st.id, st.level)
			}
			switch st.binds {
			case "Server", "Client", "Both":
			default:
				t.Errorf("%s binds %q", st.id, st.binds)
			}
		}
	}
}
