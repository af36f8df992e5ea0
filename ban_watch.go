package loopmq

import "loopmq/store"

// banWatch is who is told of bans that change in the store.
type banWatch struct {
	changed func(ban store.Ban, removed bool)
	lost    func()
}

// WatchBans returns the bans that all nodes have, and tells of each change of them, from
// whichever node: changed is called with a ban that was put, or with the Kind and Value
// of one that was removed; lost, when changes may have been missed and all have to be
// read again. Both are called on goroutines of the store, and must not block or call the
// Bans. With a store that isn't shared nothing is told. Call it once, after Start, and
// read all bans then.
func (b *Broker) WatchBans(changed func(ban store.Ban, removed bool), lost func()) store.Bans {
	b.banWatch.Store(&banWatch{changed, lost})
	return b.store.Bans()
}
