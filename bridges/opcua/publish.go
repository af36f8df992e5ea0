package opcuabridge

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/gopcua/opcua/ua"

	"loopmq"
	"loopmq/codec"
	"loopmq/metrics"
)

const (
	// batchMax is how many messages are handed to the broker at once.
	batchMax = 256
	// pauseMin and pauseMax bound the time between two attempts to publish.
	pauseMin = 50 * time.Millisecond
	pauseMax = 2 * time.Second
	// notStoredMax is how often a message is tried that the store doesn't take, such as beyond a limit on retained ones:
	// it must not keep all others back for ever.
	notStoredMax = 6
)

// publish publishes values, in their order. An error ends the connection: what is not published then comes again.
func (l *link) publish(ctx context.Context, values []*ua.MonitoredItemNotification) error {
	for some := range slices.Chunk(values, batchMax) {
		messages := make([]loopmq.Message, 0, len(some))
		for _, v := range some {
			if m, ok := l.message(v); ok {
				messages = append(messages, m)
			}
		}
		if err := l.hand(ctx, messages); err != nil {
			return err
		}
	}
	return nil
}

// message is what a value becomes; false: nothing, and why is counted.
func (l *link) message(v *ua.MonitoredItemNotification) (loopmq.Message, bool) {
	if v == nil || v.Value == nil {
		return loopmq.Message{}, false
	}
	it := l.byHandle[v.ClientHandle]
	if it == nil { // of a subscription that was given up
		return loopmq.Message{}, false
	}
	l.seen(it, v.Value.Status)
	m := l.holder.metrics
	if v.Value.Status&overflow == overflow {
		m.Overflows.Inc()
	}
	s := sample{
		endpoint: l.endpoint.Name, node: it.place.node, field: it.place.names[len(it.place.names)-1], writer: it.key.mapping + 1,
		value: v.Value, now: time.Now(),
	}
	format := it.mapping.Format
	if format == FormatPart14 {
		s.message = rand.Text()
	}
	payload, err := appendSample(nil, format, &s)
	switch {
	case errors.Is(err, errBadValue):
		m.Dropped[metrics.OPCUABadStatus].Inc()
		return loopmq.Message{}, false
	case err != nil:
		m.Dropped[metrics.OPCUATypeUnknown].Inc()
		return loopmq.Message{}, false
	}
	message := loopmq.Message{TopicName: it.topic, Payload: payload, QoS: it.mapping.QoS, Retain: it.mapping.Retain}
	if format != FormatValue {
		message.ContentType, message.PayloadFormatIndicator = "application/json", 1
	}
	return message, true
}

// hand gives messages to the broker, again and again if it can't take them now.
func (l *link) hand(ctx context.Context, messages []loopmq.Message) error {
	m := l.holder.metrics
	pause, notStored := pauseMin, 0
	for len(messages) > 0 {
		outcomes, err := l.caller.PublishAll(ctx, messages)
		var none *loopmq.NonePublishedError
		var rate *loopmq.RateError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case l.caller.Err() != nil:
			return l.caller.Err()
		case errors.As(err, &none):
			before := len(messages)
			messages = slices.Collect(func(yield func(loopmq.Message) bool) {
				for i := range messages {
					if e := none.Errors[i]; !l.refused(e) && !yield(messages[i]) {
						return
					}
				}
			})
			if len(messages) < before {
				continue
			}
		case errors.As(err, &rate):
			pause = max(pause, rate.RetryAfter)
		case err == nil:
			done := 0
			for done < len(outcomes) {
				e := outcomes[done].Err
				if errors.Is(e, loopmq.ErrNotStored) && notStored >= notStoredMax {
					m.Dropped[metrics.OPCUARefused].Inc()
				} else if e == nil {
					m.Published.Inc()
				} else if !l.refused(e) {
					break // those behind it come again, so that an old value never follows a new one
				}
				done++
			}
			if done == len(messages) {
				return nil
			}
			if done > 0 {
				notStored, pause = 0, pauseMin
			}
			notStored++
			messages = messages[done:]
		}
		if !wait(ctx, min(pause, pauseMax)) {
			return ctx.Err()
		}
		pause *= 2
	}
	return nil
}

// refused reports whether a message can't be published at all, and counts that.
func (l *link) refused(err error) bool {
	reason := metrics.OPCUARefused
	var e *codec.Error
	switch {
	case err == nil, errors.Is(err, loopmq.ErrNotRunning), errors.Is(err, loopmq.ErrNotStored):
		return false
	case errors.As(err, &e):
		switch e.ReasonCode {
		case codec.ServerBusy, codec.ServerUnavailable, codec.ServerShuttingDown, codec.MessageRateTooHigh:
			return false
		case codec.NotAuthorized:
			reason = metrics.OPCUANotAuthorized
		}
	}
	l.holder.metrics.Dropped[reason].Inc()
	return true
}
