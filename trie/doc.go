// Package trie finds who is subscribed to a topic, and which retained topics a subscription covers.
//
//   - [Trie] maps Topic Filters to subscribers and their subscription options. Filters may contain wildcards and may be shared
//     subscriptions ($share/{ShareName}/{filter}), whose members form a [Group].
//   - [Matches] is what one Topic Name found: the subscribers, and the groups of which each wants one member chosen.
//   - [Index] maps Topic Names to values, and visits those that a Topic Filter matches. It serves the retained messages.
//
// All methods of Trie, Group and Index may be called from any goroutine. A Matches belongs to one goroutine at a time.
//
// # Concurrency
//
// Readers (Trie.Match, Index.Get, Index.Match) take no lock and write no shared memory. Writers lock one shard of one hash map at a
// time, and shards follow the content: a map starts as a single small shard and splits as it fills, whatever its keys have in common.
// So a million filters under one first level are spread as well as a million first levels are.
//
// A reader is not a snapshot. It sees each subscription that was there from before its call began until after it ended, exactly
// once; one that comes or goes meanwhile it may or may not see.
//
// Locks are taken in this order, and none is held while a caller's function runs, with the exception of Group.Select and Group.Each:
//
//	slot of a filter: branch.mu, or shard.mu of a map of filters or of levels
//	    -> shard.mu of the map of the filter's subscribers, or of its groups
//	        -> Group.mu
//	            -> shard.mu of the map of the group's members
//
// Two shards of one map are locked together only to merge them, the lower prefix first. shardedMap.mu is the last in any chain.
//
// # Syntax
//
// The package trusts its caller: Topic Names and Topic Filters have been validated. An invalid one does no harm beyond itself, but
// what it matches is not defined.
package trie
