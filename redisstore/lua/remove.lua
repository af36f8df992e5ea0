-- remove.lua deletes an outbox.
--
-- Put plain.lua before it.
-- ARGV[2] endpoint
local endpoint = ARGV[2]
local key = P .. 'out:' .. endpoint
if call('EXISTS', key) == 0 then return {} end
local info = call('XINFO', 'STREAM', key)
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then
    local last = tonumber(info[i + 1]:match('-(%d+)'))
    if last > tonumber(call('HGET', P .. 'meta', 'event') or 0) then
      call('HSET', P .. 'meta', 'event', string.format('%.0f', last))
    end
  end
end
call('UNLINK', key, P .. 'outs:' .. endpoint, P .. 'dl:' .. endpoint)
call('ZREM', P .. 'outboxes', endpoint)
return {}
