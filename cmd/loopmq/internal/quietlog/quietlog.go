// Package quietlog silences the standard logger until the program has one of
// its own, so that what the program says on stderr is its own from the first
// byte. VictoriaMetrics/metrics writes a line while it is being initialised, on
// every machine whose kernel doesn't report pressure stalls; an operator can do
// nothing about it, and a start that fails shall say why in one line.
//
// This works because packages are initialised in a fixed order: sorted by
// import path, each as soon as what it imports is. The library imports net/http,
// and that imports log, as this package does. So this one is ready no later than
// net/http, sorts before it, and goes first.
package quietlog

import (
	"io"
	"log"
)

func init() { log.SetOutput(io.Discard) }
