package loadtest

import "errors"

var (
	// ErrScenario is wrapped by what is wrong with a scenario.
	ErrScenario = errors.New("scenario")
	// ErrResult is wrapped by what is wrong with a result that was read.
	ErrResult = errors.New("result")
)
