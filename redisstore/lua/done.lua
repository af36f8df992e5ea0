-- done.lua removes events that were delivered.
--
-- Put plain.lua and outbox.lua before it.
-- ARGV[2] endpoint
-- ARGV[3…] ids
local endpoint, ids, bytes = ARGV[2], {}, 0
local seen = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local e = not seen[id] and event(endpoint, id)
  seen[id] = true
  if e then
    ids[#ids + 1] = id
    bytes = bytes + #e[2][2]
  end
end
if #ids > 0 then
  remove_events(endpoint, ids, bytes)
  count_up(endpoint, 'delivered', #ids)
end
return {}
