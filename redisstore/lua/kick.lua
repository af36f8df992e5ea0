-- kick.lua asks the instance that holds the connection of a ClientID to end it.
--
-- Put generation.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2] ClientID
--
-- Returns 0 if nobody holds one.
local P, cid = ARGV[1], ARGV[2]
local owner = redis.call('HGET', P .. 'owners', cid)
if not owner then return 0 end
local next_id = generation(P .. 'meta') .. '-*'
return redis.call('XADD', P .. 'ctl:' .. owner, 'NOMKSTREAM', next_id, 'kick', cid) and 1 or 0
