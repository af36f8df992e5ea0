-- leave.lua declares an instance dead by its own wish.
--
-- ARGV[1] prefix of all keys
-- ARGV[2] instance
--
-- Returns 1, or 0 if it was dead before.
local P, me = ARGV[1], ARGV[2]
if redis.call('ZREM', P .. 'leases', me) == 0 then return 0 end
redis.call('HSET', P .. 'dead', me, me)
return 1
