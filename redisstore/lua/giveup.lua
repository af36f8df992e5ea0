-- giveup.lua makes events dead letters.
--
-- Put plain.lua and outbox.lua before it.
-- ARGV[2] endpoint
-- ARGV[3] how many dead letters there may be
-- ARGV[4…] ids, and how they ended, by turns
--
-- A dead letter is the id in digits of one length, <length>: and how it ended, and the data.
--
-- Returns how many of the oldest had to go.
local endpoint, max = ARGV[2], tonumber(ARGV[3])
local letters, totals = P .. 'dl:' .. endpoint, P .. 'outs:' .. endpoint
for i = 4, #ARGV, 2 do
  local id, how = ARGV[i], ARGV[i + 1]
  local e = event(endpoint, id)
  if e then
    local data = e[2][2]
    remove_events(endpoint, {id}, #data)
    call('ZADD', letters, 0, letter_key(id) .. #how .. ':' .. how .. data)
    call('HINCRBY', totals, 'dead_bytes', #data)
  end
end
local dropped, bytes = call('ZCARD', letters) - max, 0
if dropped <= 0 then return {0} end
for from = 0, dropped - 1, 100 do
  local page = call('ZRANGE', letters, 0, math.min(100, dropped - from) - 1)
  for _, letter in ipairs(page) do bytes = bytes + #letter_data(letter) end
  call('ZREM', letters, unpack(page))
end
count_up(endpoint, 'dropped', dropped)
count_up(endpoint, 'dead_bytes', -bytes)
return {dropped}
