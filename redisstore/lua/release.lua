-- release.lua tells instances that connections have ended which they wait for.
--
-- Put generation.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2…] instance, ClientID, epoch, for each
local P = ARGV[1]
local next_id = generation(P .. 'meta') .. '-*'
for i = 2, #ARGV, 3 do
  redis.call('XADD', P .. 'ctl:' .. ARGV[i], 'NOMKSTREAM', next_id, 'released', ARGV[i + 1], 'epoch', ARGV[i + 2])
end
