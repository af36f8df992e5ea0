-- outboxstate.lua reads what an outbox holds.
--
-- Put plain.lua before it.
-- ARGV[2] endpoint
--
-- Returns nothing if there is no outbox, otherwise {events, of which are taken, dead letters, when the oldest event came in ms or
-- empty, and the values of outboxFields}.
local endpoint = ARGV[2]
local key = P .. 'out:' .. endpoint
if call('EXISTS', key) == 0 then return {} end
local first = call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
return {call('XLEN', key), call('XPENDING', key, 'd')[1], call('ZCARD', P .. 'dl:' .. endpoint), first and first[2][4] or '',
  call('HMGET', P .. 'outs:' .. endpoint, unpack(ARGV, 3))}
