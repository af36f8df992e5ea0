package config

// Listener is where clients connect.
type Listener struct {
	Name           string
	Address        string   // host:port, unix:PATH, or Off
	AllowAnonymous *bool    // nil: as Config.AllowAnonymous
	Authentication []Method // none: Config.Authentication
	Authorization  []Rule   // none: Config.Authorization
	AllowByDefault *bool    // nil: as Config.AllowByDefault
}

func (l *Listener) keys() []*node {
	return []*node{
		key("name", &l.Name, "", listenerName, "what logs, metrics and flags call it; each listener needs one of its own"),
		key("address", &l.Address, "", listenAddress, "host:port; port 0 takes a free one. off leaves the listener out"),
		maybe("allow_anonymous", &l.AllowAnonymous, "as the key of this name at the top", boolean, "whether clients may connect here that don't say who they are"),
	}
}

var listenerName = kind[string]{
	name: "name", allowed: "up to 32 letters, digits, - and _", takes: takesText,
	parse: func(s string) (string, bool) {
		for _, r := range s {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return s, false
			}
		}
		return s, s != "" && len(s) <= 32
	},
	format: same,
}

// Admin is the listener for operators.
type Admin struct {
	Address        string // host:port, or Off
	AllowAnonymous *bool  // nil: as Config.AllowAnonymous
}

func (a *Admin) keys() []*node {
	return []*node{
		key("address", &a.Address, "127.0.0.1:8081", hostPort, "where /metrics, /livez, /readyz, /health and /clients are"),
		maybe("allow_anonymous", &a.AllowAnonymous, "as the key of this name at the top", boolean,
			"whether it may be reached from elsewhere: whoever reaches it sees and ends connections, since it authenticates nobody"),
	}
}

// standardListeners are there if no file says otherwise.
func standardListeners() []Listener {
	return []Listener{{Name: "tcp", Address: "127.0.0.1:1883"}}
}
