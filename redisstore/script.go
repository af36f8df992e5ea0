package redisstore

import (
	_ "embed" // the scripts
	"strings"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed lua/commit.lua
	commitLua string
	//go:embed lua/claim.lua
	claimLua string
	//go:embed lua/size.lua
	sizeLua string
	//go:embed lua/sweep.lua
	sweepLua string
)

var (
	generationScript = newScript(generationLua, "return {generation(KEYS[1])}")
	commitScript     = newScript(changeLua, sessionLua, outboxLua, commitLua)
	claimScript      = newScript(changeLua, sessionLua, claimLua)
	sizeScript       = newScript(sizeLua)
	sweepScript      = newScript(sweepLua)
)

// newScript makes one script of several parts. Its first line lets Redis refuse the
// whole script if it could not finish it; memory alone may be exceeded, as what frees
// memory has to run too.
func newScript(parts ...string) *redis.Script {
	return redis.NewScript("#!lua flags=allow-oom\n" + strings.Join(parts, "\n"))
}
