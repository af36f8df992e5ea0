package config

import (
	"fmt"
	"slices"
	"strings"
)

// check looks for what is wrong between values that are allowed one by one.
func (c *Config) check() {
	for i := range c.Listeners {
		c.checkFlagTLS(&c.Listeners[i], element("listeners", i))
	}
	walk(c.nodes(), "", func(path string, n *node) {
		if v := n.leaf.values(); len(v) == 1 && v[0] == "" && !n.leaf.set(v) {
			c.wrong(path, n.wrong(""))
		}
	})
	checkChoices(c, "authentication", c.Authentication)
	checkChoices(c, "authorization", c.Authorization)
	names := map[string]int{}
	for i := range c.Listeners {
		c.checkListener(&c.Listeners[i], element("listeners", i), names, i)
	}
	webhooks := map[string]int{}
	for i := range c.Webhooks {
		name, at := c.Webhooks[i].Name, element("webhooks", i)+".name"
		if first, taken := webhooks[name]; taken && name != "" {
			c.wrong(at, fmt.Sprintf("%q: %s has the same name: allowed: a name of its own", name, element("webhooks", first)))
		}
		webhooks[name] = i
	}
	endpoints := map[string]int{}
	for i := range c.OPCUA.Endpoints {
		name, at := c.OPCUA.Endpoints[i].Name, element("opcua.endpoints", i)+".name"
		if first, taken := endpoints[name]; taken && name != "" {
			c.wrong(at, fmt.Sprintf("%q: %s has the same name: allowed: a name of its own", name, element("opcua.endpoints", first)))
		}
		endpoints[name] = i
	}
	c.checkDoor(&c.HTTP.Listener, "http")
	c.checkCoAP()
	c.checkOPCUAServer()
	c.checkAdmin()
}

func (c *Config) checkListener(l *Listener, at string, names map[string]int, i int) {
	switch first, taken := names[l.Name]; {
	case reserved[l.Name]:
		c.wrong(at+".name", fmt.Sprintf("%q: allowed: a name that logs don't use for something else", l.Name))
	case taken && l.Name != "":
		c.wrong(at+".name", fmt.Sprintf("%q: %s has the same name: allowed: a name of its own", l.Name, element("listeners", first)))
	}
	names[l.Name] = i
	c.checkDoor(l, at)
}

// checkDoor looks at who may come in by a listener.
func (c *Config) checkDoor(l *Listener, at string) {
	if l.TLS != nil && l.Address != Off {
		c.checkTLS(l.TLS, at+".tls")
	}
	checkChoices(c, at+".authentication", l.Authentication)
	checkChoices(c, at+".authorization", l.Authorization)
	c.checkClaims(l, at)
	if !IsLoopback(l.Address) && c.Anonymous(l) == nil && len(c.Methods(l)) == 0 && (l.TLS == nil || !l.TLS.Require) {
		c.wrong(at+".address", c.open(l.Address, at+".address", "allow_anonymous"))
	}
}

// checkClaims looks for tokens whose grants nobody would look at: their clients could
// do more than the tokens say.
func (c *Config) checkClaims(l *Listener, at string) {
	methods, rules := at+".authentication", c.Authorization
	if len(l.Authentication) == 0 {
		methods = "authentication"
	}
	if len(l.Authorization) > 0 {
		rules = l.Authorization
	}
	if l.Address == Off || slices.ContainsFunc(rules, func(r Rule) bool { return r.Claims != nil }) {
		return
	}
	for i, m := range c.Methods(l) {
		if m.JWT != nil && m.JWT.ACLClaim != "" {
			c.wrong(element(methods, i)+".jwt.acl_claim", fmt.Sprintf("%s: nothing looks at what it says on %s: allowed: with claims under authorization", shown(m.JWT.ACLClaim), at))
		}
	}
}

// checkFlagTLS looks for what --tls and --wss lack, and says so in terms of flags.
func (c *Config) checkFlagTLS(l *Listener, at string) {
	flag := c.Source(at + ".address")
	if l.TLS == nil || flag.Name != "--tls" && flag.Name != "--wss" || l.Address == Off {
		return
	}
	at += ".tls.certificates"
	lacks := func(path, flags string) {
		c.problems = append(c.problems, Problem{flag, "", fmt.Sprintf("%s: there is no certificate or no key: allowed: with %s", shown(l.Address), flags), path})
	}
	switch pairs := l.TLS.Certificates; {
	case len(pairs) == 0:
		lacks(at, "--certificate FILE and --key FILE")
	case pairs[0].Key == "":
		lacks(element(at, 0)+".key", "--key FILE")
	case pairs[0].Certificate == "":
		lacks(element(at, 0)+".certificate", "--certificate FILE")
	}
}

func (c *Config) checkTLS(t *TLS, at string) {
	switch {
	case len(t.Certificates) == 0:
		c.wrong(at+".certificates", "is empty: allowed: a list with at least one certificate and its key")
	case t.ClientCA == "" && (t.Require || t.CRL != ""):
		c.wrong(at+".client_ca", fmt.Sprintf("%q: allowed: a file, where there is require or crl", ""))
	case t.MaxVersion < t.MinVersion:
		c.wrong(at+".max_version", fmt.Sprintf("%q: allowed: min_version or more", version.format(t.MaxVersion)))
	}
}

// reserved are the other attributes of the log line that says where listeners are.
var reserved = map[string]bool{"time": true, "level": true, "msg": true, "version": true, "admin": true, "admin_socket": true, "http": true, "coap": true, "coaps": true, "opcua": true}

// choice is an element of a list that is one of several sections.
type choice[T any] interface {
	*T
	choices() []string
	chosen() int
}

func checkChoices[T any, P choice[T]](c *Config, path string, list []T) {
	for i := range list {
		if e := P(&list[i]); e.chosen() != 1 {
			c.wrong(element(path, i), fmt.Sprintf("has %d of them: allowed: one of %s", e.chosen(), strings.Join(e.choices(), ", ")))
		}
	}
}

// open says that an address is open to everybody, and what would allow that: the
// flag if the address comes from one, else the key.
func (c *Config) open(address, path, key string) string {
	permission := key + ": true"
	if strings.HasPrefix(c.Source(path).Name, "--") {
		permission = "--allow-anonymous"
	}
	return fmt.Sprintf("%q: anybody who reaches this address could connect, since nobody has to authenticate: "+
		"allowed: a loopback address, or %s with it", address, permission)
}

// wrong adds a problem, unless the value has one, which this one may follow from.
func (c *Config) wrong(path, text string) {
	for _, p := range c.problems {
		if p.path == path {
			return
		}
	}
	c.problems = append(c.problems, c.Problem(path, text))
}

// Anonymous returns whether clients may connect to a listener that don't say who
// they are; nil: nobody said so.
func (c *Config) Anonymous(l *Listener) *bool {
	if l.AllowAnonymous != nil {
		return l.AllowAnonymous
	}
	return c.AllowAnonymous
}

// Methods returns the ways of knowing the clients of a listener.
func (c *Config) Methods(l *Listener) []Method {
	if len(l.Authentication) > 0 {
		return l.Authentication
	}
	return c.Authentication
}

func or(v *bool, otherwise bool) bool {
	if v != nil {
		return *v
	}
	return otherwise
}
