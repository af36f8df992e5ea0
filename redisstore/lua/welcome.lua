-- welcome.lua tells an instance that has joined that another one knows it.
--
-- Put generation.lua before it.
-- ARGV[1] prefix of all keys
-- ARGV[2] instance that knows it
-- ARGV[3] instance that has joined
local P = ARGV[1]
redis.call('XADD', P .. 'ctl:' .. ARGV[3], 'NOMKSTREAM', generation(P .. 'meta') .. '-*', 'welcome', ARGV[2])
