-- sweep.lua deletes messages that were stored once for many queues and that none of them has any more.
--
-- ARGV[1] prefix of all keys
-- ARGV[2] now in ms
-- ARGV[3] how many messages to look at
-- ARGV[4] how many of the entries that stand for each
--
-- A message is looked at again after a second while its entries go, and ever more rarely while they stay.
--
-- Returns how many it has looked at.
local P, now, entries = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local call = redis.call

local due = call('ZRANGEBYSCORE', P .. 'shared', '-inf', now, 'LIMIT', 0, ARGV[3])
for _, number in ipairs(due) do
  local key, gone, seen = P .. 'm:' .. number, {}, 0
  for _, name in ipairs(call('HRANDFIELD', key, entries)) do
    local queue, id = name:match('^(.*) (%d+%-%d+)$')
    if queue then
      seen = seen + 1
      if #call('XRANGE', P .. queue, id, id) == 0 then gone[#gone + 1] = name end
    end
  end
  if #gone > 0 then call('HDEL', key, unpack(gone)) end
  if #gone == seen and call('HLEN', key) <= 2 then -- the message and its time are all that is left
    call('UNLINK', key)
    call('ZREM', P .. 'shared', number)
  else
    local wait = 1000
    if #gone == 0 then
      local since = tonumber(call('HGET', key, 'since') or now)
      wait = math.max(1000, math.min(3600000, (now - since) / 4))
    end
    call('ZADD', P .. 'shared', string.format('%.0f', now + wait), number)
  end
end
return #due
