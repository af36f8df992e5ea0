package main

import (
	"context"
	"errors"
	"io"

	"loopmq/loadtest/plan"
)

const planUsage = `Say how many nodes a load needs, from what was measured, with every assumption.

Usage:
  loadtest plan --devices N --rate N [flags]

The load:
  --devices N           devices that are connected at the same time, such as 3M
  --rate N              messages a second that all of them publish, such as 200k
  --payload BYTES       of a message (default 128)
  --topic BYTES         of its Topic Name (default 32)
  --qos N               of messages and subscriptions (default 1)
  --fan-out N           subscribers of each message, on average (default 1)
  --durable SHARE       of the deliveries that are for durable sessions, such as 50% (default 0)
  --queued N            messages that wait for devices which are away, at the worst (default 0)
  --keep-alive DURATION of devices (default 300s)
  --tls                 devices connect over TLS

The nodes:
  --cores N             of a node (default 8)
  --memory SIZE         of a node (default 16GiB)
  --network BITS        a second, of a node in each direction (default 10G)
  --sockets N           connections that a node is allowed (default 1M)
  --redis-memory SIZE   of a Redis (default 32GiB)
  --spare N             nodes of a cluster that may be away at the same time (default 1)
  --reconnect DURATION  in which the devices of a dead node are back elsewhere (default 60s)
  --head-room SHARE     of each node and Redis that stays free, up to 90% (default 50%)

The costs:
  --from FILE           a result of loadtest run --json; may be repeated. What a message costs
                        is taken from the one that is nearest to the plan, what a connect
                        costs from one of connects, memory from one of idle connections
  --json FILE           write the answer as JSON, - for the standard output
`

func runPlan(_ context.Context, args []string, stdout, _ io.Writer) error {
	q := plan.Default()
	q.QoS = 1
	var from []string
	flags := newFlags("plan")
	for name, to := range map[string]*float64{
		"devices": &q.Devices, "rate": &q.Rate, "fan-out": &q.FanOut, "queued": &q.Queued, "cores": &q.Cores, "sockets": &q.Sockets,
	} {
		value(flags, name, to, plan.ParseCount)
	}
	for name, to := range map[string]*float64{"memory": &q.Memory, "redis-memory": &q.Redis} {
		value(flags, name, to, sizeOf)
	}
	for name, to := range map[string]*float64{"durable": &q.Durable, "head-room": &q.Free} {
		value(flags, name, to, share)
	}
	for name, to := range map[string]*int{"payload": &q.Payload, "topic": &q.Topic, "spare": &q.Spare} {
		value(flags, name, to, whole)
	}
	value(flags, "qos", &q.QoS, small)
	value(flags, "network", &q.Network, bitRate)
	flags.DurationVar(&q.KeepAlive, "keep-alive", q.KeepAlive, "")
	flags.DurationVar(&q.Reconnect, "reconnect", q.Reconnect, "")
	flags.BoolVar(&q.TLS, "tls", q.TLS, "")
	values(flags, "from", &from)
	file := flags.String("json", "", "")
	rest, err := parse(flags, args)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return wrong("argument %q: allowed: flags only", rest[0])
	}
	if err := q.Check(); err != nil {
		return &usageError{err}
	}
	results, err := readResults(from)
	if err != nil {
		return err
	}
	costs, warnings := plan.CostsFrom(q, from, results)
	answer, err := plan.Ask(q, costs)
	if err != nil {
		return err
	}
	answer.Warnings = append(warnings, answer.Warnings...)
	if *file == "-" {
		return answer.WriteJSON(stdout)
	}
	if *file != "" {
		err = writeFile(*file, stdout, answer.WriteJSON)
	}
	return errors.Join(err, answer.WriteText(stdout))
}
