-- renew.lua renews the lease of an instance, unless it was declared dead, and says what else it has to know.
--
-- Put generation.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2] instance
-- ARGV[3] how long its lease lasts, in ms
-- ARGV[4] run_id of the Redis process that it has seen last
-- ARGV[5] its report, or empty
--
-- Returns nothing for an instance that is dead. Otherwise {1 if the lease had not lapsed, run_id, id of the feed's last record, how
-- many were ever added to it, instances whose lease has lapsed, dead ones that this one has to reap, all that are dead, the
-- generation, and, if run_id is another, the writers' hash of the instance}.
local P, me = ARGV[1], ARGV[2]
local call = redis.call

local lease = call('ZSCORE', P .. 'leases', me)
if not lease then return false end
local current, run_id = generation(P .. 'meta')
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
call('ZADD', P .. 'leases', now + ARGV[3], me)
if ARGV[5] ~= '' then call('HSET', P .. 'reports', me, ARGV[5]) end

local lapsed = call('ZRANGEBYSCORE', P .. 'leases', '-inf', '(' .. now, 'LIMIT', 0, 16)
-- Dead ones that this instance reaps, or whose reaper is dead too.
local tombstones = call('HGETALL', P .. 'dead')
local dead, inherited = {}, {}
for i = 1, #tombstones, 2 do
  dead[#dead + 1] = tombstones[i]
  local reaper = tombstones[i + 1]
  if reaper == me or not call('ZSCORE', P .. 'leases', reaper) then inherited[#inherited + 1] = tombstones[i] end
end

local last, added
local info = call('XINFO', 'STREAM', P .. 'feed')
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
  if info[i] == 'entries-added' then added = info[i + 1] end
end
local writers = {}
if run_id ~= ARGV[4] then writers = call('HGETALL', P .. 'wr:' .. me) end
return {tonumber(lease) >= now and 1 or 0, run_id, last, added, lapsed, inherited, dead, current, writers}
