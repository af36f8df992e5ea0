-- What the scripts that change sessions share. Put it behind change.lua and before such a script. It takes for granted:
--
-- ARGV[1] prefix of all keys
-- ARGV[2] instance that has joined, or empty: then nothing is written to the feed
-- ARGV[3] now in ms
--
-- A client is named by its ClientID (cid) and by that as a hash tag (tag).
local ARGV, tonumber, ipairs = ARGV, tonumber, ipairs -- globals are slow
local P, me, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local joined = me ~= ''
local call = redis.call

-- The instance may have been declared dead while this script was on its way: then it has no lease any more.
if joined and not call('ZSCORE', P .. 'leases', me) then
  return redis.error_reply('DEAD ' .. me)
end

local meta = call('HMGET', P .. 'meta', 'generation', 'full', 'epoch', 'group')
local generation = meta[1]
local next_id = generation .. '-*'

-- in_parts(f, list, from, to) calls f with parts of a list: the stack has room for some thousand values.
local function in_parts(f, list, from, to)
  for i = from, to, 1000 do f(unpack(list, i, math.min(i + 999, to))) end
end

local function feed(record)
  if joined then
    call('XADD', P .. 'feed', 'MAXLEN', '~', FEED_LENGTH, next_id, 'c', record)
  end
end

-- find(cid, tag) returns the session, or nil. st: it has stored state.
local function find(cid, tag)
  local v = call('HMGET', P .. 's:' .. tag, 'inc', 'ep', 'own', 'dur', 'st', 'sei', 'due', 'lim')
  if not v[1] then return nil end
  return {
    cid = cid, tag = tag, inc = v[1], ep = v[2], own = v[3], durable = v[4] == '1', stored = v[5] == '1', sei = v[6], due = v[7],
    lim = v[8],
  }
end

-- disown(se) takes a session out of all that says who is connected.
local function disown(se)
  if se.own == '' then return end
  call('HDEL', P .. 'owners', se.cid)
  call('ZREM', P .. 'clients', se.cid)
  call('ZREM', P .. 'own:' .. se.own, se.cid)
  se.own = ''
end

-- set_due(se, due) says when an offline session expires: ms as a string, '0' for never.
local function set_due(se, due)
  if due ~= '0' then
    call('ZADD', P .. 'expiry', due, se.cid)
  elseif se.due ~= '0' then
    call('ZREM', P .. 'expiry', se.cid)
  end
  se.due = due
end

-- hurry_will(se) makes the Will of the session's last claim due, unless it was due before or is not there. It returns when it is due.
local function hurry_will(se)
  if call('HEXISTS', P .. 'w:' .. se.tag, se.ep) == 0 then return nil end
  local member = se.ep .. ':' .. se.cid
  local due = tonumber(call('ZSCORE', P .. 'wills', member) or nil)
  if not due or due > now then
    due = now
    call('ZADD', P .. 'wills', now, member)
  end
  return due
end

-- drop_will(cid, tag, epoch) forgets a Will. It returns whether it was there.
local function drop_will(cid, tag, epoch)
  if call('HDEL', P .. 'w:' .. tag, epoch) == 0 then return false end
  call('ZREM', P .. 'wills', epoch .. ':' .. cid)
  return true
end

-- The names of full queues are in a hash, and their number in meta: while there is none, no commit looks for them.
local function set_full(cid, what)
  if call('HSET', P .. 'full', cid, what) == 1 then call('HINCRBY', P .. 'meta', 'full', 1) end
end

local function clear_full(cid)
  if call('HDEL', P .. 'full', cid) == 1 then call('HINCRBY', P .. 'meta', 'full', -1) end
end

-- qos_of(delivery) is the QoS of an entry, see appendDelivery in encode.go.
local function qos_of(delivery)
  local qos = delivery:byte(1) - 48
  return qos >= 4 and qos - 4 or qos
end

-- An entry is counted by reading it, message and all. So of a long queue only the first ones are read, and the others counted as if
-- their QoS were like those.
local COUNTED, PAGE = 10000, 500

-- count(queue, sent) returns how many entries are behind an id (or all, if that is empty), by their QoS.
local function count(queue, sent)
  local by_qos = {0, 0, 0}
  local from, counted = sent == '' and '-' or '(' .. sent, 0
  repeat
    local page = call('XRANGE', queue, from, '+', 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      local i = qos_of(entry[2][1]) + 1
      by_qos[i] = by_qos[i] + 1
    end
    counted = counted + #page
    if #page < PAGE then return by_qos end
    from = '(' .. page[#page][1]
  until counted >= COUNTED
  local all = call('XLEN', queue)
  if sent ~= '' then
    from = '-'
    repeat
      local page = call('XRANGE', queue, from, sent, 'COUNT', PAGE)
      all = all - #page
      if #page == PAGE then from = '(' .. page[#page][1] end
    until #page < PAGE
  end
  by_qos[2] = math.floor(all * by_qos[2] / counted + 0.5)
  by_qos[3] = all - by_qos[2]
  return by_qos
end

local function field(s) return #s .. ':' .. s end

-- group_of(delivery) returns ShareName and Topic Filter of an entry of a shared subscription, each behind its length, or nil.
local function group_of(delivery)
  local length, behind = delivery:match('^(%d+):()', 2)
  if not length then return nil end
  local names = delivery:sub(behind + length)
  return names ~= '0:0:' and names or nil
end

-- size_of(value) returns the size of an entry's message, whether that is in the entry or elsewhere.
local function size_of(message)
  if message:byte(1) == 64 then return tonumber(message:match('^@(%d+)')) end
  local flags, _, _, high, low = message:byte(1, 5)
  return #message - 9 - (flags % 16 >= 8 and 8 or 0) - high * 256 - low
end

-- whole(value) returns the message of an entry, or nil if it is gone.
local function whole(value)
  if value:byte(1) ~= 64 then return value end
  return call('HGET', P .. 'm:' .. value:match(' (%d+)$'), 'message') or nil
end

-- add_to_group(key, delivery, message) appends to a group, which comes into being with that. It begins behind all numbers that any
-- group had in this generation, so that it reuses none.
local function add_to_group(key, delivery, message)
  local id = call('XADD', key, 'NOMKSTREAM', next_id, delivery, message)
  if not id then
    id = call('XADD', key, generation .. '-' .. (meta[4] or '0'), delivery, message)
  end
  return id
end

-- redirected(delivery, message, qos, retained, identifiers) returns an entry's delivery as one to another session.
local function redirected(delivery, message, qos, retained, identifiers)
  local flags = message:byte(1)
  local first = 48 + math.min(flags % 4, qos)
  if retained and flags % 8 >= 4 then first = first + 4 end
  local rest = '0:0:'
  if #delivery > 1 then
    local length, behind = delivery:match('^(%d+):()', 2)
    rest = delivery:sub(behind + length)
  end
  if identifiers == '' and rest == '0:0:' then return string.char(first) end
  return string.char(first) .. field(identifiers) .. rest
end

-- has_shared_subscription(tag) says whether one of a session's Topic Filters is that of a group.
local function has_shared_subscription(tag)
  for _, filter in ipairs(call('HKEYS', P .. 'sub:' .. tag)) do
    if filter:sub(1, 7) == '$share/' then return true end
  end
  return false
end

-- give_back(se) moves what a session that is about to end has of shared subscriptions to their groups: QoS 1, and QoS 2 that nobody can
-- have sent, which is all but the first ones, as many as may be in flight [MQTT-4.8.2-4, MQTT-4.8.2-5]. It returns the groups, as
-- group_of does.
local function give_back(se)
  local groups, known = {}, {}
  if not se.stored or not has_shared_subscription(se.tag) then return groups end
  local queue = P .. 'q:' .. se.tag .. ':' .. se.inc
  local in_flight, seen, from = tonumber(se.lim:match('(%d+)$') or 65535), 0, '-'
  repeat
    local page = call('XRANGE', queue, from, '+', 'COUNT', PAGE)
    for _, entry in ipairs(page) do
      local id, delivery = entry[1], entry[2][1]
      local names, qos = group_of(delivery), qos_of(delivery)
      if qos == 2 then seen = seen + 1 end
      from = '(' .. id
      local message = names and (qos == 1 or qos == 2 and seen > in_flight) and whole(entry[2][2])
      if message then
        local length, behind = names:match('^(%d+):()')
        local share, filter = names:sub(behind, behind + length - 1), names:sub(behind + length):match('^%d+:(.*)$')
        add_to_group(P .. 'g:' .. share .. '/' .. filter, redirected(delivery, message, 2, true, ''), message)
        call('XDEL', queue, id)
        if not known[names] then
          known[names] = true
          groups[#groups + 1] = names
        end
      end
    end
  until #page < PAGE
  return groups
end

-- end_session(se, sent) deletes a session with all its state except Wills. It returns how many entries went, as count does.
local function end_session(se, sent)
  local dropped = {0, 0, 0}
  if se.stored then
    local queue = se.tag .. ':' .. se.inc
    dropped = count(P .. 'q:' .. queue, sent)
    call('UNLINK', P .. 'q:' .. queue, P .. 'b:' .. queue, P .. 'sub:' .. se.tag, P .. 'rel:' .. se.tag, P .. 'held:' .. se.tag)
    call('ZREM', P .. 'sessions', se.cid)
    clear_full(se.cid)
    feed(change(ENDED, se.cid, se.inc, '', '', nil))
  end
  set_due(se, '0')
  disown(se)
  call('UNLINK', P .. 's:' .. se.tag)
  return dropped
end

-- go_offline(se, sei, due, sent, how) says that the connection of a session has ended. One that is not durable ends: then it returns
-- what end_session does.
local function go_offline(se, sei, due, sent, how)
  if not se.durable then return end_session(se, sent), true end
  local was = se.own
  disown(se)
  call('HSET', P .. 's:' .. se.tag, 'own', '', 'sei', sei, 'due', due, 'dis', how)
  set_due(se, due)
  if was ~= '' then feed(change(OWNER, se.cid, se.inc, '', se.ep, nil)) end
  return {0, 0, 0}, false
end
