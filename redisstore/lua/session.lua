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

-- go_offline(se, sei, due, sent) says that the connection of a session has ended. One that is not durable ends: then it returns what
-- end_session does.
local function go_offline(se, sei, due, sent)
  if not se.durable then return end_session(se, sent), true end
  local was = se.own
  disown(se)
  call('HSET', P .. 's:' .. se.tag, 'own', '', 'sei', sei, 'due', due)
  set_due(se, due)
  if was ~= '' then feed(change(OWNER, se.cid, se.inc, '', se.ep, nil)) end
  return {0, 0, 0}, false
end
