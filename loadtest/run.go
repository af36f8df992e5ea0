package loadtest

import (
	"context"
	"log/slog"
	"time"
)

// Options are what a run needs besides its Scenario. The zero value is usable.
type Options struct {
	// Progress is called for each Second of the timeline when it is over, from one goroutine. It should not block for long.
	Progress func(Second)
	// Logger gets what happens to the run itself; nil means slog.Default().
	Logger *slog.Logger
	// Broker looks at what the broker has used. It is called once a second, and when the measured time begins and ends, once at a
	// time; nil means that nobody looks. An error is an error of the run, which goes on.
	Broker func(context.Context) (BrokerSample, error)
	// Loops is the number of event loops; 0 means one for each two cores.
	Loops int
	// Started, if not nil, is called when all clients are connected, and publishing begins at the time that it returns: for
	// processes that begin together. The zero time means at once. Its error ends the run.
	Started func(context.Context) (time.Time, error)
}
