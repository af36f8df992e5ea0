-- acquire.lua takes or renews a lease on a name.
--
-- Put plain.lua before it.
-- ARGV[2] name
-- ARGV[3] holder
-- ARGV[4] for how long, in ms; 0: the holder gives it up
--
-- Returns the fence, or nothing if the holder doesn't have it.
local key, holder = P .. 'lease:' .. ARGV[2], ARGV[3]
local fence, of
local lease = call('GET', key)
if lease then
  fence, of = lease:match('^(%d+) (.*)$')
  if of ~= holder then return {} end
end
if ARGV[4] == '0' then
  call('DEL', key)
  return {}
end
if not lease then
  -- Neither an older one that was lost nor a clock that was set back makes it smaller.
  fence = math.max(tonumber(call('HGET', P .. 'meta', 'fence') or 0) + 1, time[1] * 1000000 + time[2])
  fence = string.format('%.0f', fence)
  call('HSET', P .. 'meta', 'fence', fence)
end
call('SET', key, fence .. ' ' .. holder, 'PX', ARGV[4])
return {fence}
