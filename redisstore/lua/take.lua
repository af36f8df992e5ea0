-- take.lua gives a consumer events of an outbox that no living one has: first those that dead consumers hold.
--
-- Put plain.lua before it.
-- ARGV[2] endpoint
-- ARGV[3] consumer
-- ARGV[4] how many
-- ARGV[5] how many bytes of data
--
-- Returns how many of them may have been taken before, and for each its id, its data and when it came.
local endpoint, consumer, limit, max_bytes = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local key = P .. 'out:' .. endpoint
-- So many events are read at once: how large they are is known then.
local PAGE = 16

if limit <= 0 or call('EXISTS', key) == 0 then return {0} end

local reply, bytes, room = {0}, 0, true

-- take(entry) adds an event to the reply, if it has room.
local function take(entry)
  local data = entry[2][2]
  bytes = bytes + #data
  room = #reply == 1 or bytes <= max_bytes
  if room then
    reply[#reply + 1] = {entry[1], data, entry[2][4]}
    room = #reply <= limit
    return true
  end
end

-- claim(ids) notes that the consumer has them, whoever had them, or if nobody had.
local function claim(ids)
  for i = 1, #ids, 1000 do
    local part = {key, 'd', consumer, 0, unpack(ids, i, math.min(i + 999, #ids))}
    part[#part + 1] = 'FORCE'
    part[#part + 1] = 'JUSTID'
    call('XCLAIM', unpack(part))
  end
end

local function before(a, b)
  local ga, sa = a:match('(%d+)-(%d+)')
  local gb, sb = b:match('(%d+)-(%d+)')
  return tonumber(ga) < tonumber(gb) or ga == gb and tonumber(sa) < tonumber(sb)
end

-- What dead consumers hold. One that holds nothing is forgotten.
local orphans, ids = {}, {}
for _, c in ipairs(call('XINFO', 'CONSUMERS', key, 'd')) do
  local name, pending
  for i = 1, #c, 2 do
    if c[i] == 'name' then name = c[i + 1] elseif c[i] == 'pending' then pending = c[i + 1] end
  end
  local lives = name == consumer or tonumber(call('ZSCORE', P .. 'consumers', name) or 0) > now
  if not lives and pending == 0 then
    call('XGROUP', 'DELCONSUMER', key, 'd', name)
  elseif not lives then
    for _, p in ipairs(call('XPENDING', key, 'd', '-', '+', limit, name)) do orphans[#orphans + 1] = p[1] end
  end
end
table.sort(orphans, before)
for _, id in ipairs(orphans) do
  if not room then break end
  local entry = call('XRANGE', key, id, id)[1]
  if entry and take(entry) then ids[#ids + 1] = id end
end
claim(ids)
reply[1] = #ids

-- What nobody has. XREADGROUP would take as many as it is told to, however large they are.
local last
for _, g in ipairs(call('XINFO', 'GROUPS', key)) do
  for i = 1, #g, 2 do
    if g[i] == 'last-delivered-id' then last = g[i + 1] end
  end
end
local former = last
ids = {}
while room do
  local page = call('XRANGE', key, '(' .. last, '+', 'COUNT', PAGE)
  for _, entry in ipairs(page) do
    if not room or not take(entry) then break end
    last = entry[1]
    ids[#ids + 1] = last
  end
  if #page < PAGE then break end
end
if last ~= former then
  call('XGROUP', 'SETID', key, 'd', last)
  claim(ids)
end
return reply
