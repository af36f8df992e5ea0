package redisstore

import _ "embed"

// What several scripts begin with; each says in its first lines which of them.
var (
	//go:embed lua/generation.lua
	generationLua string
	//go:embed lua/change.lua
	changeLua string
	//go:embed lua/session.lua
	sessionLua string
)
