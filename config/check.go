package config

import (
	"fmt"
	"strings"
)

// check looks for what is wrong between values that are allowed one by one.
func (c *Config) check() {
	c.checkListeners()
	if !IsLoopback(c.Admin.Address) && !or(c.Admin.AllowAnonymous, or(c.AllowAnonymous, false)) {
		c.wrong("admin.address", fmt.Sprintf("%q: anybody who reaches this address could connect, since nobody has to authenticate: "+
			"allowed: a loopback address, or %s with it", c.Admin.Address, c.permission("admin.address", "admin.allow_anonymous")))
	}
}

func (c *Config) checkListeners() {
	names := map[string]int{}
	for i := range c.Listeners {
		l, at := &c.Listeners[i], element("listeners", i)
		if l.Name == "" {
			c.wrong(at+".name", fmt.Sprintf("%q: allowed: %s", "", listenerName.allowed))
		} else if first, taken := names[l.Name]; taken {
			c.wrong(at+".name", fmt.Sprintf("%q: %s has the same name: allowed: a name of its own", l.Name, element("listeners", first)))
		}
		names[l.Name] = i
		if l.Address == "" {
			c.wrong(at+".address", fmt.Sprintf("%q: allowed: %s", "", listenAddress.allowed))
			continue
		}
		if !IsLoopback(l.Address) && !or(l.AllowAnonymous, or(c.AllowAnonymous, false)) {
			c.wrong(at+".address", fmt.Sprintf("%q: anybody who reaches this address could connect, since nobody has to authenticate: "+
				"allowed: a loopback address, or %s with it", l.Address, c.permission(at+".address", "allow_anonymous")))
		}
	}
}

// permission says what allows an address that anybody reaches: the flag if the
// address comes from one, else the key.
func (c *Config) permission(path, key string) string {
	if strings.HasPrefix(c.Source(path).Name, "--") {
		return "--allow-anonymous"
	}
	return key + ": true"
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

func or(v *bool, otherwise bool) bool {
	if v != nil {
		return *v
	}
	return otherwise
}
