-- tell.lua puts an entry into the ctl stream of an instance.
--
-- Put generation.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2] instance
-- ARGV[3…] fields and values of the entry
--
-- Returns 0 if that instance isn't there any more.
local P, instance = ARGV[1], ARGV[2]
local next_id = generation(P .. 'meta') .. '-*'
return redis.call('XADD', P .. 'ctl:' .. instance, 'NOMKSTREAM', next_id, unpack(ARGV, 3)) and 1 or 0
