-- finish.lua deletes what is left of a dead instance once all that it held is offline, and tells the others.
--
-- Put generation.lua and change.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2] reaper
-- ARGV[3] dead instance
--
-- Returns 1 if it has done so, 0 if another reaps that instance or something of it is left.
local P, me, victim = ARGV[1], ARGV[2], ARGV[3]
local call = redis.call
if call('HGET', P .. 'dead', victim) ~= me or call('EXISTS', P .. 'own:' .. victim) == 1 then return 0 end
local next_id = generation(P .. 'meta') .. '-*'
call('UNLINK', P .. 'ctl:' .. victim, P .. 'in:' .. victim, P .. 'routes:' .. victim, P .. 'wr:' .. victim)
call('XADD', P .. 'feed', 'MAXLEN', '~', FEED_LENGTH, next_id, 'c', change(DEAD, '', '', victim, '', nil))
call('HDEL', P .. 'dead', victim)
call('HDEL', P .. 'reports', victim)
return 1
