package loadtest

import "errors"

var (
	// ErrScenario is wrapped by what is wrong with a scenario.
	ErrScenario = errors.New("scenario")
	// ErrConnect is wrapped when no client could connect.
	ErrConnect = errors.New("no client could connect")
	// ErrResult is wrapped by what is wrong with a result that was read.
	ErrResult = errors.New("result")
)
