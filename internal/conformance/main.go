// Command conformance writes docs/conformance.md: which test shows which normative statement of the MQTT standards. Run it at the root of
// the repository:
//
//	go run ./internal/conformance
//
// The statements are in mqtt311.tsv and mqtt5.tsv, in our words. A test says in its doc comment, in brackets, which ones it shows. What
// can't be seen from outside stands in unobservable.tsv with the reason. The tests of this command fail if a statement that binds a Server
// is in none of the two places, or if docs/conformance.md isn't what the command would write.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

// document is where the table goes, seen from the root.
const document = "docs/conformance.md"

func main() {
	if err := write("."); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// write writes the document of the repository at root. It is written also if statements lack a test, and then there is an error.
func write(root string) error {
	reports, err := collect(root)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	render(&b, reports)
	if err := os.WriteFile(filepath.Join(root, document), b.Bytes(), 0o644); err != nil {
		return err
	}
	return check(reports)
}
