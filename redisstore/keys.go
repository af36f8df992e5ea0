package redisstore

import (
	"strconv"
	"strings"

	"loopmq/store"
)

// keys names the keys in Redis. All of them begin with the prefix. In a Redis Cluster
// that has a hash tag, which puts all keys into one hash slot: a batch changes the
// queues of many sessions in one script, and a script has one slot. Keys of one
// ClientID hold it in braces, with `%`, `{` and `}` percent-escaped. What is in a
// hash or a sorted set is the plain ClientID.
type keys struct{ prefix string }

// declared are the KEYS of each script that changes something, whatever it changes:
// a Redis Cluster redirects it by them before it begins. The second one is never
// there. While the slot is being moved to another server, a script that finds a key
// missing would fail in its midst; so it is refused at once (TRYAGAIN).
func (k keys) declared() []string { return []string{k.meta(), k.prefix + "absent"} }

// Keys of one ClientID.

// session is a hash: what store.Session holds, see encode.go.
func (k keys) session(clientID string) string { return k.prefix + "s:" + tag(clientID) }

// subscriptions is a hash: Topic Filter -> encoded options.
func (k keys) subscriptions(clientID string) string { return k.prefix + "sub:" + tag(clientID) }

// rel:{ClientID} is a set of Numbers that are released, held:{ClientID} one of Packet
// Identifiers: only scripts name them.

// will is a hash: epoch -> encoded Will.
func (k keys) will(clientID string) string { return k.prefix + "w:" + tag(clientID) }

// queue is a stream: a session's, or a group's.
func (k keys) queue(q store.QueueID) string {
	if q.IsGroup() {
		return k.prefix + "g:" + q.ShareName + "/" + q.TopicFilter
	}
	return k.prefix + "q:" + queueTag(q.Session)
}

// queueTag is what names a session's queue behind q: and b:.
func queueTag(id store.SessionID) string {
	if strings.ContainsAny(id.ClientID, "%{}") || id.ClientID == "" {
		return tag(id.ClientID) + ":" + strconv.FormatUint(id.Incarnation, 10)
	}
	var buffer [64]byte // so that most take one allocation
	b := append(append(append(buffer[:0], '{'), id.ClientID...), '}', ':')
	return string(strconv.AppendUint(b, id.Incarnation, 10))
}

// clients is a sorted set of the ClientIDs that are connected, with score 0.
func (k keys) clients() string { return k.prefix + "clients" }

// shared is a hash: a message that many queues have, and their entries that name it.
// Those messages are in a sorted set: number -> ms when to look whether they are
// still needed.
func (k keys) shared(number string) string { return k.prefix + "m:" + number }

// Keys of one instance.

// own is a sorted set of the ClientIDs whose connections the instance holds, all
// with score 0 and so in the order of ClientIDs: added by the claim before anything
// else is, removed when the session goes offline.
func (k keys) own(instance string) string { return k.prefix + "own:" + instance }

// writers is a hash: name of a writer -> what it committed last.
func (k keys) writers(instance string) string { return k.prefix + "wr:" + instance }

// routes is a set of Topic Filters.
func (k keys) routes(instance string) string { return k.prefix + "routes:" + instance }

// ctl and inbox are the streams that an instance reads: see ctl.go and inbox.go.
func (k keys) ctl(instance string) string   { return k.prefix + "ctl:" + instance }
func (k keys) inbox(instance string) string { return k.prefix + "in:" + instance }

// Keys of all.

// meta is a hash: run_id of the Redis process that was seen last, generation, …
func (k keys) meta() string { return k.prefix + "meta" }

// sessions is a sorted set of durable ClientIDs, with score 0.
func (k keys) sessions() string { return k.prefix + "sessions" }

// owners is a hash: ClientID of a connected session -> instance.
func (k keys) owners() string { return k.prefix + "owners" }

// expiry is a sorted set: ClientID of an offline session -> ms when it is due.
func (k keys) expiry() string { return k.prefix + "expiry" }

// wills is a sorted set: <epoch>:<ClientID> of a Will -> ms when it is due.
func (k keys) wills() string { return k.prefix + "wills" }

// retainedMessage is a hash, retained a sorted set of topics with score 0,
// retainedExpiry one of topics with the ms when their messages expire.
func (k keys) retainedMessage(topicName string) string { return k.prefix + "r:" + topicName }
func (k keys) retained() string                        { return k.prefix + "retained" }
func (k keys) retainedExpiry() string                  { return k.prefix + "retexp" }

// leases is a sorted set: instance -> ms on Redis's clock when its lease lapses. It
// is the fence: an instance that isn't in it was declared dead, or has left, and
// never comes back, so that scripts that act for an instance ask ZSCORE first.
func (k keys) leases() string { return k.prefix + "leases" }

// dead is a hash of tombstones: instance that was declared dead -> the instance that
// reaps it. A tombstone goes when that is done.
func (k keys) dead() string { return k.prefix + "dead" }

// letters are the dead letters of an endpoint, outboxes the endpoints: see
// lua/outbox.lua. Only scripts name what else an outbox has; consumers, a sorted set:
// consumer of outboxes -> ms until which it lives; once:<key>, what an OpPublish that
// happens once has noted; and lease:<name>.
func (k keys) letters(endpoint string) string { return k.prefix + "dl:" + endpoint }
func (k keys) outboxes() string               { return k.prefix + "outboxes" }

// once is a string: the answer that was noted under a key.
func (k keys) once(key string) string { return k.prefix + "once:" + key }

// bells is a stream: an endpoint whose outbox had no event that nobody has taken, and
// has one now, and the instance that has enqueued it.
func (k keys) bells() string { return k.prefix + "bells" }

// ban is a hash: name of a ban -> what it says; bans a sorted set of their names, with
// score 0.
func (k keys) ban() string  { return k.prefix + "ban" }
func (k keys) bans() string { return k.prefix + "bans" }

// reports is a hash: instance -> what it says of itself.
func (k keys) reports() string { return k.prefix + "reports" }

// feed is the stream of Changes.
func (k keys) feed() string { return k.prefix + "feed" }

var escape = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D")

// tag is a ClientID in braces. An empty one would be no hash tag.
func tag(clientID string) string {
	if clientID == "" {
		return "{%}"
	}
	return "{" + escape.Replace(clientID) + "}"
}
