-- size.lua sums the sizes of the messages in a part of a queue.
--
-- KEYS[1] stream
-- ARGV[1] where to begin, as XRANGE has it
-- ARGV[2] how many entries
--
-- Returns {entries, bytes, id of the last one}.
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local bytes = 0
for _, entry in ipairs(entries) do
  local message = entry[2][2]
  local flags, _, _, high, low = message:byte(1, 5)
  if flags == 64 then -- stored elsewhere, see lua/commit.lua
    bytes = bytes + message:match('^@(%d+)')
  else
    bytes = bytes + #message - 9 - (flags % 16 >= 8 and 8 or 0) - high * 256 - low
  end
end
return {#entries, bytes, #entries > 0 and entries[#entries][1] or ''}
