-- reap.lua takes one page of what a dead instance held offline. Repeating it does no harm.
--
-- Put generation.lua, change.lua and session.lua before it, with the reaper as the instance that has joined.
-- ARGV[1] prefix of all keys
-- ARGV[2] reaper
-- ARGV[3] is not used
-- ARGV[4] dead instance
-- ARGV[5] how many sessions
-- ARGV[6] how many of the first ones to pass over
-- ARGV[7] how the connections have ended, as decodeDisconnected takes it behind the time
-- ARGV[8…] ClientIDs of the sessions that the last page brought and that the Broker has been told of
--
-- The reaper may be the instance itself, while it isn't dead yet.
-- Returns nothing if another reaps it now, and otherwise {1 if that was the last page, how many there were, for each durable session with shared
-- subscriptions that is offline: ClientID and the values of sessionFields}. These stay in the index of the dead instance until
-- they are named here, so that another reaper finds them again.
local victim, limit, first = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
if victim ~= me and call('HGET', P .. 'dead', victim) ~= me then return false end
local time = call('TIME')
now = time[1] * 1000 + math.floor(time[2] / 1000)

local own = P .. 'own:' .. victim
local NEVER = '4294967295'
if #ARGV > 7 then call('ZREM', own, unpack(ARGV, 8)) end

local function in_seconds(n) return string.format('%.0f', now + n * 1000) end

-- offline(se) does what the end of its connection would have done, had the instance lived to see it.
local function offline(se)
  local will = call('HGET', P .. 'w:' .. se.tag, se.ep)
  if will then
    local delay = tonumber(will:match('^%d+'))
    if not se.durable then delay = 0 elseif se.sei ~= NEVER then delay = math.min(delay, tonumber(se.sei)) end
    call('ZADD', P .. 'wills', 'NX', in_seconds(delay), se.ep .. ':' .. se.cid)
  end
  go_offline(se, se.sei, se.sei == NEVER and '0' or in_seconds(tonumber(se.sei)), '',
    string.format('%.0f', now) .. ' ' .. ARGV[7])
end

local escapes = {['%'] = '%25', ['{'] = '%7B', ['}'] = '%7D'}
local page = call('ZRANGE', own, first, first + limit - 1)
local orphans = {}
for _, cid in ipairs(page) do
  local tag = cid == '' and '{%}' or '{' .. cid:gsub('[%%{}]', escapes) .. '}'
  local se = find(cid, tag)
  if se and se.own == victim then offline(se) end
  if se and se.own == '' and se.durable and has_shared_subscription(tag) then
    orphans[#orphans + 1] = cid
    orphans[#orphans + 1] = call('HMGET', P .. 's:' .. tag, 'inc', 'ep', 'own', 'dur', 'sei', 'due', 'lim')
    call('ZADD', own, 0, cid)
  else
    call('ZREM', own, cid)
  end
end
return {#page < limit and 1 or 0, #page, orphans}
