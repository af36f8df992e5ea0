-- resume.lua reads what a consumer has taken of an outbox.
--
-- Put plain.lua before it.
-- ARGV[2] endpoint
-- ARGV[3] consumer
-- ARGV[4] id of the event behind which it begins
-- ARGV[5] how many
-- ARGV[6] how many bytes of data
--
-- Returns what take.lua does.
local key, limit, max_bytes = P .. 'out:' .. ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6])
if limit <= 0 or call('EXISTS', key) == 0 then return {0} end
local reply, bytes = {0}, 0
for _, p in ipairs(call('XPENDING', key, 'd', '(' .. ARGV[4], '+', limit, ARGV[3])) do
  local entry = call('XRANGE', key, p[1], p[1])[1]
  if entry then
    local data = entry[2][2]
    bytes = bytes + #data
    if #reply > 1 and bytes > max_bytes then break end
    reply[#reply + 1] = {entry[1], data, entry[2][4]}
  end
end
reply[1] = #reply - 1
return reply
