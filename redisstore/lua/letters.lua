-- letters.lua takes dead letters away: to the end of the outbox, or for good.
--
-- Put plain.lua and outbox.lua before it.
-- ARGV[2] endpoint
-- ARGV[3] 1: to the outbox
-- ARGV[4] instance, or empty
-- ARGV[5…] ids
--
-- Returns how many.
local endpoint, replay = ARGV[2], ARGV[3] == '1'
local letters, n, bytes = P .. 'dl:' .. endpoint, 0, 0
local waited = replay and waiting(endpoint)
for i = 5, #ARGV do
  local key = letter_key(ARGV[i])
  local letter = call('ZRANGE', letters, '[' .. key, '(' .. key .. '\255', 'BYLEX', 'LIMIT', 0, 1)[1]
  if letter then
    local data = letter_data(letter)
    call('ZREM', letters, letter)
    n, bytes = n + 1, bytes + #data
    if replay then add_event(endpoint, data) end
  end
end
count_up(endpoint, 'dead_bytes', -bytes)
if replay then count_up(endpoint, 'bytes', bytes) else count_up(endpoint, 'dropped', n) end
if replay and n > 0 and not waited then ring(endpoint, ARGV[4]) end
return {n}
