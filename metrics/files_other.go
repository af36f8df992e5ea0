//go:build !linux

package metrics

import (
	"io"

	vm "github.com/VictoriaMetrics/metrics"
)

func writeFiles(w io.Writer) { vm.WriteFDMetrics(w) }
