//go:build !linux

package loadtest

import (
	"context"
	"errors"
)

// Run fails: the event loops need Linux.
func Run(context.Context, *Scenario, Options) (*Result, error) {
	return nil, errors.New("the load generator needs Linux")
}
