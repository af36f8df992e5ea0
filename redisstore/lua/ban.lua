-- ban.lua adds a ban, or removes one, and tells all instances.
--
-- Put generation.lua and change.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2] name of the ban
-- ARGV[3] what is to be stored, see encodeBan: ms when it ends, or 0, first. Empty: it is removed
-- ARGV[4] how many there may be; or, of one that is removed, ms: only if it has ended by then, 0: in any case
--
-- Returns 1, or 0 if there are too many, or none that can be removed.
local P, name, ban, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local call = redis.call
local next_id = generation(P .. 'meta') .. '-*'

local function feed(record) -- whoever joins later reads them all
  call('XADD', P .. 'feed', 'NOMKSTREAM', 'MAXLEN', '~', FEED_LENGTH, next_id, 'c', record)
end

local there = call('HGET', P .. 'ban', name)
if ban ~= '' then
  if not there and call('HLEN', P .. 'ban') >= limit then return 0 end
  call('HSET', P .. 'ban', name, ban)
  call('ZADD', P .. 'bans', 0, name)
  feed(change(BANNED, '', '', '', '', {name, ban}))
  return 1
end
if not there then return 0 end
if limit > 0 then
  local ends = tonumber(there:match('^%d+'))
  if ends == 0 or ends > limit then return 0 end
end
call('HDEL', P .. 'ban', name)
call('ZREM', P .. 'bans', name)
feed(change(UNBANNED, '', '', '', '', {name}))
return 1
