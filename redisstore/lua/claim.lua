-- claim.lua makes an instance the owner of a session: the one step of a CONNECT.
--
-- ARGV[1] prefix
-- ARGV[2] instance that has joined, or empty
-- ARGV[3] now in ms
-- ARGV[4] ClientID
-- ARGV[5] its hash tag
-- ARGV[6] owner
-- ARGV[7] 1: CleanStart
-- ARGV[8] 1: durable
-- ARGV[9] Session Expiry Interval
-- ARGV[10] limits
-- ARGV[11] id of the entry that was sent last, or empty
-- ARGV[12] Will, or empty
-- ARGV[13] name of the CONNECT, or empty: a claim whose answer was lost is made again under the same one
-- ARGV[14] what is said of the connection
--
-- Returns {epoch, incarnation, present, the former session or nothing (inc, ep, own, dur, sei, due, lim), entries dropped with it by
-- QoS, its owner if that is still to end the connection, due time of its Will in ms (0: cancelled), its Will; of a session that
-- goes on: subscriptions, released, held, last id of the queue; of one that doesn't: the groups that got some of its messages}.
local cid, tag, owner, clean, durable = ARGV[4], ARGV[5], ARGV[6], ARGV[7] == '1', ARGV[8] == '1'
local sei, lim, sent, will, name = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]

-- Neither an epoch nor an incarnation restarts, even if the session is forgotten and the clock set back.
local time = call('TIME')
local epoch = math.max(tonumber(meta[3] or 0) + 1, time[1] * 1000000 + time[2])
epoch = string.format('%.0f', epoch)
call('HSET', P .. 'meta', 'epoch', epoch)

local se = find(cid, tag)
local former, old_owner = false, ''
local present, dropped, old_due, old_will, groups = false, {0, 0, 0}, 0, false, {}

-- What the first claim of this CONNECT has made is taken for not made: its Will, and that it holds the session. try is the name, who
-- held the session before, and 1 if it was a new one.
local try, was, new
if se then
  try, was, new = (call('HGET', P .. 's:' .. tag, 'try') or ''):match('^(%S+) (%S*) (%d)$')
  if try and name ~= '' and try == name then drop_will(cid, tag, se.ep) else try = nil end
end

if se then
  former = {se.inc, se.ep, se.own, se.durable and '1' or '0', se.sei, se.due, se.lim}
  old_owner = try and was or se.own
  local due = tonumber(se.due)
  if try then
    present = not clean and new == '0'
  else
    present = not clean and se.durable and not (due ~= 0 and now >= due)
  end
  old_will = call('HGET', P .. 'w:' .. tag, se.ep)
  if old_will then
    local will_due = tonumber(call('ZSCORE', P .. 'wills', se.ep .. ':' .. cid) or nil)
    if present and tonumber(old_will:match('^%d+')) > 0 and not (will_due and will_due <= now) then
      drop_will(cid, tag, se.ep) -- the session goes on before the Will Delay Interval has passed [MQTT-3.1.3-9]
    else
      old_due = hurry_will(se)
    end
  end
  if not present then
    groups = give_back(se)
    dropped = end_session(se, sent)
  end
end
local held_by = old_owner

-- The connection of another instance ends first. If that instance is gone, so is the connection.
if old_owner ~= '' and old_owner ~= owner and joined then
  if not call('XADD', P .. 'ctl:' .. old_owner, 'NOMKSTREAM', next_id, 'yield', cid, 'epoch', epoch, 'clean', clean and '1' or '0',
    'to', owner) then
    old_owner = ''
  end
end

if present then
  -- What earlier connections may have sent is in the queue still.
  local before, own = tonumber(se.lim:match('(%d+)$') or 0), tonumber(lim:match('(%d+)$') or 0)
  if before > own and own > 0 and call('XLEN', P .. 'q:' .. tag .. ':' .. se.inc) > 0 then lim = lim:gsub('%d+$', before) end
  if se.own ~= owner and se.own ~= '' then call('ZREM', P .. 'own:' .. se.own, cid) end
  if se.lim ~= lim then clear_full(cid) end
  set_due(se, '0')
  if not durable then call('ZREM', P .. 'sessions', cid) end
  if se.own ~= owner then feed(change(OWNER, cid, se.inc, owner, epoch, nil)) end
else
  se = {cid = cid, tag = tag, inc = epoch, stored = durable}
  if durable then
    call('XADD', P .. 'q:' .. tag .. ':' .. epoch, 'MAXLEN', 0, '0-1', 'x', 'x') -- an empty stream
    call('ZADD', P .. 'sessions', 0, cid)
  end
end
call('HSET', P .. 's:' .. tag, 'inc', se.inc, 'ep', epoch, 'own', owner, 'dur', durable and '1' or '0', 'st', se.stored and '1' or '0',
  'sei', sei, 'due', '0', 'lim', lim, 'con', ARGV[14],
  'try', name .. ' ' .. held_by .. ' ' .. (present and 0 or 1))
if owner ~= '' then
  call('HSET', P .. 'owners', cid, owner)
  call('ZADD', P .. 'clients', 0, cid)
  call('ZADD', P .. 'own:' .. owner, 0, cid)
end
if will ~= '' then
  call('HSET', P .. 'w:' .. tag, epoch, will)
end

local reply = {epoch, se.inc, present and 1 or 0, former, dropped, old_owner, old_due, old_will}
if present then
  reply[9] = call('HGETALL', P .. 'sub:' .. tag)
  reply[10] = call('SMEMBERS', P .. 'rel:' .. tag)
  reply[11] = call('SMEMBERS', P .. 'held:' .. tag)
  local info = call('XINFO', 'STREAM', P .. 'q:' .. tag .. ':' .. se.inc)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then reply[12] = info[i + 1] end
  end
else
  reply[9] = groups
end
return reply
