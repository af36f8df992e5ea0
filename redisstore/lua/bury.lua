-- bury.lua declares an instance dead whose lease has lapsed, or takes over a dead one whose reaper is dead too.
--
-- Put generation.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2] instance that is to reap it
-- ARGV[3] the other instance
-- ARGV[4] run_id of the Redis process that the reaper has seen last: it knows of no other whether all others could renew their leases
--
-- Returns 1 if ARGV[2] is its reaper now.
local P, me, victim = ARGV[1], ARGV[2], ARGV[3]
local call = redis.call

local _, run_id = generation(P .. 'meta')
if run_id ~= ARGV[4] then return 0 end
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own = call('ZSCORE', P .. 'leases', me)
if not own or tonumber(own) < now then return 0 end

local lease = call('ZSCORE', P .. 'leases', victim)
if lease then
  if tonumber(lease) >= now then return 0 end
  call('ZREM', P .. 'leases', victim)
else
  local reaper = call('HGET', P .. 'dead', victim)
  if not reaper then return 0 end
  if reaper ~= me and call('ZSCORE', P .. 'leases', reaper) then return 0 end
end
call('HSET', P .. 'dead', victim, me)
return 1
