package main

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"loopmq"
)

// at returns the path below one for a name.
func at(path, name string) string { return path + "/" + url.PathEscape(name) }

// command returns what the words ask for.
func (c *ctl) command(words []string) (func(context.Context) error, error) {
	name, rest := words[0], words[1:]
	switch name {
	case "clients":
		q := c.clientQuery()
		return c.without(rest, func(ctx context.Context) error {
			return c.list(ctx, "/clients", q, column{"client id", "client_id", nil}, column{"node", "node", nil}, column{"address", "address", nil},
				column{"user", "username", nil}, column{"listener", "listener", nil}, column{"mqtt", "protocol", nil}, column{"since", "connected_at", age}, column{"durable", "durable", yes})
		})
	case "client":
		return c.one("client CLIENT_ID", "/clients", rest)
	case "kick":
		return each("kick CLIENT_ID...", rest, c.remove("/clients"))
	case "subscriptions":
		path, q := "/subscriptions", c.query("prefix", "client_id_prefix", "filter", "topic_filter", "topic", "topic")
		if len(rest) == 1 {
			q.Set("client_id", rest[0])
			rest = nil
		}
		return c.without(rest, func(ctx context.Context) error {
			return c.list(ctx, path, q, column{"client id", "client_id", nil}, column{"topic filter", "topic_filter", nil}, column{"qos", "qos", nil},
				column{"no local", "no_local", yes}, column{"id", "subscription_identifier", nil})
		})
	case "sessions":
		return c.sessions(rest)
	case "retained":
		return c.retained(rest)
	case "bans":
		return c.bans(rest)
	case "nodes":
		return c.without(rest, func(ctx context.Context) error {
			return c.list(ctx, "/nodes", nil, column{"node", "node", nil}, column{"id", "node_id", nil}, column{"state", "state", nil}, column{"clients", "connections", nil},
				column{"sessions", "sessions", nil}, column{"up", "since", age}, column{"said", "reported_at", age}, column{"version", "version", nil},
				column{"admin", "admin_address", nil}, column{"reason", "reason", nil})
		})
	case "drain":
		return c.drain(rest)
	case "undrain":
		return each("undrain NODE", rest, func(ctx context.Context, node string) error {
			return c.api.ask(ctx, http.MethodDelete, at("/nodes", node)+"/drain", nil, nil)
		})
	case "counters":
		node := c.flag("node")
		return c.without(rest, func(ctx context.Context) error { return c.counters(ctx, node) })
	case "webhooks":
		return c.webhooks(rest)
	}
	return nil, usagef("command %q: allowed: clients, client, kick, subscriptions, sessions, retained, bans, nodes, drain, undrain, counters, webhooks, token", name)
}

// without returns f for a command that has no arguments.
func (c *ctl) without(rest []string, f func(context.Context) error) (func(context.Context) error, error) {
	if len(rest) > 0 {
		return nil, usagef("argument %q: %s has none, see loopmq ctl --help", rest[0], c.words[0])
	}
	return f, nil
}

// one returns what shows one element.
func (c *ctl) one(what, path string, rest []string) (func(context.Context) error, error) {
	if len(rest) != 1 || rest[0] == "" {
		return nil, usagef("allowed: %s", what)
	}
	return func(ctx context.Context) error { return c.show(ctx, at(path, rest[0])) }, nil
}

// remove returns what deletes an element.
func (c *ctl) remove(path string) func(context.Context, string) error {
	return func(ctx context.Context, name string) error {
		return c.api.ask(ctx, http.MethodDelete, at(path, name), nil, nil)
	}
}

func (c *ctl) clientQuery() url.Values {
	return c.query("prefix", "client_id_prefix", "contains", "client_id_contains", "username", "username", "address", "address", "node", "node")
}

// verb returns the first word, or list if there is none.
func verb(words []string) (string, []string) {
	if len(words) == 0 {
		return "list", nil
	}
	return words[0], words[1:]
}

func (c *ctl) sessions(words []string) (func(context.Context) error, error) {
	switch name, rest := verb(words); name {
	case "list":
		q := c.clientQuery()
		maps.Copy(q, c.query("connected", "connected"))
		return c.without(rest, func(ctx context.Context) error {
			return c.list(ctx, "/sessions", q, column{"client id", "client_id", nil}, column{"connected", "connected", yes}, column{"node", "node", nil},
				column{"user", "username", nil}, column{"offline for", "", offline}, column{"expires", "expires_at", age}, column{"last error", "last_error", nil})
		})
	case "show":
		return c.one("sessions show CLIENT_ID", "/sessions", rest)
	case "delete":
		return each("sessions delete CLIENT_ID...", rest, c.remove("/sessions"))
	default:
		return nil, usagef("sessions %s: allowed: list, show, delete", name)
	}
}

func (c *ctl) retained(words []string) (func(context.Context) error, error) {
	name, rest := verb(words)
	switch name {
	case "show":
		return c.one("retained show TOPIC", "/retained", rest)
	case "delete":
		return each("retained delete TOPIC...", rest, c.remove("/retained"))
	}
	q := url.Values{}
	if name != "list" {
		rest = words
	}
	if len(rest) == 1 {
		q.Set("topic_filter", rest[0])
		rest = nil
	}
	return c.without(rest, func(ctx context.Context) error {
		return c.list(ctx, "/retained", q, column{"topic", "topic", nil}, column{"qos", "qos", nil}, column{"bytes", "bytes", nil},
			column{"publisher", "publisher", nil}, column{"expires", "expires_at", age})
	})
}

func (c *ctl) bans(words []string) (func(context.Context) error, error) {
	switch name, rest := verb(words); name {
	case "list":
		return c.without(rest, func(ctx context.Context) error {
			return c.list(ctx, "/bans", nil, column{"kind", "kind", nil}, column{"value", "value", nil}, column{"ends", "until", age},
				column{"source", "source", nil}, column{"reason", "reason", nil})
		})
	case "add":
		if len(rest) != 2 {
			return nil, usagef("allowed: bans add client_id|username|address VALUE")
		}
		ban := map[string]any{"kind": rest[0], "value": rest[1]}
		if reason := c.flag("reason"); reason != "" {
			ban["reason"] = reason
		}
		if text := c.flag("for"); text != "" {
			d, err := time.ParseDuration(text)
			if err != nil || d <= 0 {
				return nil, usagef("--for %q: allowed: a duration such as 24h", text)
			}
			ban["until"] = time.Now().Add(d).UTC().Truncate(time.Second)
		}
		return func(ctx context.Context) error { return c.api.ask(ctx, http.MethodPost, "/bans", ban, nil) }, nil
	case "remove":
		if len(rest) != 2 {
			return nil, usagef("allowed: bans remove client_id|username|address VALUE")
		}
		return func(ctx context.Context) error { return c.remove(at("/bans", rest[0]))(ctx, rest[1]) }, nil
	default:
		return nil, usagef("bans %s: allowed: list, add, remove", name)
	}
}

func (c *ctl) drain(nodes []string) (func(context.Context) error, error) {
	options := map[string]any{}
	if wait := c.flag("wait"); wait != "" {
		options["wait"] = wait
	}
	if reference := c.flag("server-reference"); reference != "" {
		options["server_reference"] = reference
	}
	if text := c.flag("rate"); text != "" {
		rate, err := strconv.Atoi(text)
		if err != nil || rate < 0 {
			return nil, usagef("--rate %q: allowed: a number of clients per second", text)
		}
		options["rate"] = rate
	}
	var body any
	if len(options) > 0 {
		body = options
	}
	return each("drain NODE", nodes, func(ctx context.Context, node string) error {
		return c.api.ask(ctx, http.MethodPost, at("/nodes", node)+"/drain", body, nil)
	})
}

// nodeCounters are the counters of a node.
type nodeCounters struct {
	Node     string
	Counters map[string]uint64
}

// counters prints the sum of all nodes, or those of one.
func (c *ctl) counters(ctx context.Context, node string) error {
	var all struct {
		Items []nodeCounters
		Sum   map[string]uint64
	}
	if err := c.api.ask(ctx, http.MethodGet, "/counters", nil, &all); err != nil {
		return err
	}
	counters := all.Sum
	if node != "" {
		find := func(instance string) int {
			return slices.IndexFunc(all.Items, func(n nodeCounters) bool { return n.Node == instance })
		}
		i := find(node)
		if i < 0 {
			instance, err := c.instanceOf(ctx, node)
			if err != nil {
				return err
			}
			i = find(instance)
		}
		if i < 0 {
			return &statusError{http.StatusNotFound, "no node is called " + strconv.Quote(node) + ": allowed: node, or id if one node has it, of loopmq ctl nodes"}
		}
		counters = all.Items[i].Counters
	}
	if c.json {
		return c.print(counters)
	}
	w := c.table("counter", "value")
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		_, _ = w.Write([]byte(name + "\t" + strconv.FormatUint(counters[name], 10) + "\n"))
	}
	return w.Flush()
}

// instanceOf returns the instance of the node with a node_id, as the API does for drain;
// empty: none that is alive has it, or several.
func (c *ctl) instanceOf(ctx context.Context, nodeID string) (instance string, err error) {
	var all struct {
		Items []struct {
			Node   string
			NodeID string `json:"node_id"`
			State  string
		}
	}
	if err := c.api.ask(ctx, http.MethodGet, "/nodes", nil, &all); err != nil {
		return "", err
	}
	for _, n := range all.Items {
		if n.NodeID == nodeID && n.State != string(loopmq.NodeDead) {
			if instance != "" {
				return "", nil
			}
			instance = n.Node
		}
	}
	return instance, nil
}

func (c *ctl) webhooks(words []string) (func(context.Context) error, error) {
	name, rest := verb(words)
	if name == "list" {
		return c.without(rest, func(ctx context.Context) error {
			return c.list(ctx, "/webhooks", nil, column{"name", "name", nil}, column{"state", "state", nil}, column{"delivered", "delivered", nil},
				column{"queued", "queued", nil}, column{"in flight", "in_flight", nil}, column{"dead", "dead", nil}, column{"dropped", "dropped", nil},
				column{"oldest", "oldest", age}, column{"last error", "last_error", nil})
		})
	}
	if !slices.Contains([]string{"show", "dead", "replay", "drop", "enable", "disable", "forget"}, name) {
		return nil, usagef("webhooks %s: allowed: list, show, dead, replay, drop, enable, disable, forget", name)
	}
	if len(rest) == 0 || rest[0] == "" {
		return nil, usagef("webhooks %s: allowed: with the NAME of an endpoint", name)
	}
	path, rest := at("/webhooks", rest[0]), rest[1:]
	switch {
	case name == "replay" || name == "drop":
		return c.dead(path+"/dead/"+name, rest)
	case name == "show" && len(rest) == 1:
		return func(ctx context.Context) error { return c.show(ctx, at(path+"/dead", rest[0])) }, nil
	case len(rest) > 0:
		return nil, usagef("argument %q: webhooks %s has one, see loopmq webhooks --help", rest[0], name)
	}
	post := func(body any) func(context.Context) error {
		return func(ctx context.Context) error {
			return c.api.ask(ctx, http.MethodPost, path+"/"+name, body, nil)
		}
	}
	switch name {
	case "show":
		return func(ctx context.Context) error { return c.show(ctx, path) }, nil
	case "dead":
		return func(ctx context.Context) error {
			return c.list(ctx, path+"/dead", nil, column{"id", "id", nil}, column{"dead for", "at", age}, column{"status", "status", nil},
				column{"attempts", "attempts", nil}, column{"reason", "reason", nil})
		}, nil
	case "disable":
		if reason := c.flag("reason"); reason != "" {
			return post(map[string]string{"reason": reason}), nil
		}
		return post(nil), nil
	case "enable":
		return post(nil), nil
	}
	return func(ctx context.Context) error { return c.api.ask(ctx, http.MethodDelete, path, nil, nil) }, nil
}

// deadAtOnce is how many dead letters a request names.
const deadAtOnce = 1000

// dead replays or drops dead letters, and prints how many there were.
func (c *ctl) dead(path string, ids []string) (func(context.Context) error, error) {
	all := c.flag("all") != ""
	if all == (len(ids) > 0) {
		return nil, usagef("allowed: with the IDs of dead letters, or with --all")
	}
	return func(ctx context.Context) error {
		count := 0
		for more := true; more; more = more || len(ids) > 0 {
			body := map[string]any{"all": true}
			if !all {
				some := ids[:min(len(ids), deadAtOnce)]
				body, ids = map[string]any{"ids": some}, ids[len(some):]
			}
			var done struct {
				Count int
				More  bool
			}
			if err := c.api.ask(ctx, http.MethodPost, path, body, &done); err != nil {
				return err
			}
			count, more = count+done.Count, done.More && done.Count > 0
		}
		if c.json {
			return c.print(map[string]int{"count": count})
		}
		_, err := c.stdout.Write([]byte(strconv.Itoa(count) + "\n"))
		return err
	}, nil
}
