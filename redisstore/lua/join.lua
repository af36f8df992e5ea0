-- join.lua makes a new instance: its lease, its empty inboxes, and its place in the feed. It tells the others, who have to answer
-- before it serves.
--
-- Put generation.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2] the new instance
-- ARGV[3] how long its lease lasts, in ms
-- ARGV[4] the configured name of the node, or empty: instances with that name are declared dead, since this is the same node again
--
-- Returns {run_id, id of the feed's last record, how many were ever added to it, the other live instances, those that are dead}.
local P, me = ARGV[1], ARGV[2]
local call = redis.call

local current, run_id = generation(P .. 'meta')
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A stream that nobody has written to yet has an id before all others, and then none.
local function create(key)
  if call('EXISTS', key) == 0 then call('XADD', key, 'MAXLEN', 0, '0-1', 'x', 'x') end
end
create(P .. 'feed')
create(P .. 'ctl:' .. me)
create(P .. 'in:' .. me)

if ARGV[4] ~= '' then
  for _, instance in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
    if instance:match('^(.*)%-%x+$') == ARGV[4] then
      call('ZREM', P .. 'leases', instance)
      call('HSET', P .. 'dead', instance, me)
    end
  end
end
local others = call('ZRANGE', P .. 'leases', 0, -1)
for _, instance in ipairs(others) do
  call('XADD', P .. 'ctl:' .. instance, 'NOMKSTREAM', current .. '-*', 'joined', me)
end
call('ZADD', P .. 'leases', now + ARGV[3], me)

local last, added
local info = call('XINFO', 'STREAM', P .. 'feed')
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
  if info[i] == 'entries-added' then added = info[i + 1] end
end
return {run_id, last, added, others, call('HKEYS', P .. 'dead')}
