-- commit.lua applies a batch of operations, once.
--
-- ARGV[1] prefix
-- ARGV[2] instance that has joined, or empty
-- ARGV[3] now in ms
-- ARGV[4] name of the process among those that have writers
-- ARGV[5] writer
-- ARGV[6] number of the batch
-- ARGV[7] position in the feed, or empty
-- ARGV[8] 1: there is no room for messages
-- ARGV[9] number of queues
-- ARGV[10] number of messages
-- then the queues' ClientIDs, the queues' tags ({cid}:<incarnation>), the messages, and the operations: a letter and what it takes,
-- see below and encodeOp in commit.go. A queue is named by its place among those above, or by 'g' and the key of a group. An 'i', a
-- digit and a name are an instance's inbox and the message's QoS.
--
-- Returns {1 if the batch was applied before, generation, results, what is new in the feed, who holds the sessions of the queues, and
-- for each move that was done the fields of what it moved}. Results are words, of each operation and, behind a publication or move
-- that was done, of its targets: a letter, with a target's the sequence of its new entry, @ and an epoch if it came for a session that
-- had left its group, and, if entries were dropped, :n:n:n by their QoS. A move's target has :n for n entries there. A run of
-- publications has one word, see operations.Q.
local DONE, DUPLICATE, FENCED, GONE, REFUSED, FULL, STALE = 'D', 'U', 'F', 'G', 'R', 'L', 'S'

-- The inbox of another instance holds about so many entries; then it gets no more, but is told that some are missing.
local INBOX = 10000
-- The limits of a queue are looked at each time that so many numbers were given out, and after a message that is so large.
local CHECKED, LARGE = 64, 8192
-- So many entries are read to learn the mean size of those in a queue, each time.
local MEASURED = 256

local writers, writer, batch, position, no_room = P .. 'wr:' .. ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local queues, messages = tonumber(ARGV[9]), tonumber(ARGV[10])
local cids, tags = 10, 10 + queues -- a queue's ClientID and tag are in ARGV behind these
local first_message = tags + queues
local at = first_message + messages -- what was taken last

local function take()
  at = at + 1
  return ARGV[at]
end

local function take_number() return tonumber(take()) end

local function take_list()
  local list = {}
  for i = 1, take_number() do list[i] = take() end
  return list
end

-- each_queue(name) returns what a hash has for the ClientIDs of the queues.
local function each_queue(name)
  local all = {}
  in_parts(function(...)
    for _, v in ipairs(call('HMGET', P .. name, ...)) do all[#all + 1] = v end
  end, ARGV, cids + 1, cids + queues)
  return all
end

local news = {}
if position ~= '' then news = call('XRANGE', P .. 'feed', '(' .. position, '+', 'COUNT', 1000) end
local holders = each_queue('owners')

-- A writer has one batch under way at a time: what was done last is all that may come again. One before that was given up, and
-- comes from a connection that was slow.
local last = call('HGET', writers, writer)
if last then
  local number, of, results = last:match('^(%d+) (%d+) (.*)$')
  if number == batch then
    call('HSET', writers, writer, last) -- something to wait for, where replicas are waited for
    return {1, of, results, news, holders, {}}
  end
  if tonumber(number) > tonumber(batch) then return redis.error_reply('ERR this batch was given up') end
end

-- A subscription may have been added since the messages of this batch were matched.
local stale = #news == 1000
for _, record in ipairs(news) do
  local kind = record[2][2]:byte(1)
  stale = stale or kind == SUBSCRIBED or kind == ROUTED
end

local results, moves = {}, {}
local published = DONE -- the result of the last publication

local function result(word) results[#results + 1] = word end

local sequence_at = #generation + 2 -- in an id of this generation

-- Sessions. known holds those that were looked at, false for one that isn't there.
local known = {}

local function session(cid, tag)
  local se = known[tag]
  if se == nil then
    se = find(cid, tag) or false
    known[tag] = se
  end
  return se
end

-- guarded() takes ClientID, tag, incarnation and epoch. It returns the session, or nil and why nothing may be done; behind that the
-- ClientID, and the session whosever it is.
local function guarded()
  local cid, tag, inc, epoch = take(), take(), take(), take()
  local se = session(cid, tag)
  if not se then return nil, GONE, cid, nil end
  if se.ep ~= epoch then return nil, FENCED, cid, se end
  if se.inc ~= inc then return nil, GONE, cid, se end
  return se, nil, cid, se
end

-- stored() is guarded() for what changes state that only a durable session has.
local function stored()
  local se, why = guarded()
  if se and not se.stored then return nil, GONE end
  return se, why
end

-- News for other instances: what one gets is collected, and added in one entry.
local inboxes = {}

local function inbox(instance)
  local b = inboxes[instance]
  if not b then
    local length = call('XLEN', P .. 'in:' .. instance)
    b = {length = length, over = length >= INBOX, parts = {}, routed = {}}
    inboxes[instance] = b
  end
  return b
end

-- tell(b, of, message, whom) adds a message once, and whom it is for. of tells messages apart that are the same.
local function tell(b, of, message, whom)
  if b.over then return end
  local parts = b.parts
  if b.of ~= of then
    b.of = of
    parts[#parts + 1] = 'm' .. #message .. ':'
    parts[#parts + 1] = message
  end
  parts[#parts + 1] = whom
end

-- hint(i, of, message, delivery, id) tells who holds the session of a queue what is in it now.
local function hint(i, of, message, delivery, id)
  local holder = holders[i]
  if joined and holder and holder ~= me then
    tell(inbox(holder), of, message, 'h' .. field(ARGV[tags + i]) .. field(delivery) .. field(id))
  end
end

-- left(i, delivery) is what the word of an entry says if nobody holds the session of queue i and the entry is of a shared subscription:
-- the epoch since which nobody does. What the batch is asked when it is repeated, the session may be held, and left again.
local function left(i, delivery)
  if not joined or holders[i] or not group_of(delivery) then return '' end
  return '@' .. (call('HGET', P .. 's:' .. ARGV[tags + i]:match('^(.*):%d+$'), 'ep') or 0)
end

-- Limits.

local function before(a, b)
  local ga, sa = a:match('(%d+)-(%d+)')
  local gb, sb = b:match('(%d+)-(%d+)')
  return tonumber(ga) < tonumber(gb) or ga == gb and tonumber(sa) < tonumber(sb)
end

local function limits(lim)
  if not lim or lim == '' then return nil end
  local messages, bytes, policy, protected = lim:match('(%d+) (%d+) (%d+) (%d+)')
  return {messages = tonumber(messages), bytes = tonumber(bytes), oldest = policy == '1', protected = tonumber(protected)}
end

-- measure(queue, length) returns the mean size of the entries in a queue. What was read for that is remembered in parts, each under its
-- last id. The newest parts are taken to be what is left, as entries go in about the order in which they came.
local function measure(queue, length)
  local key, stream = P .. 'b:' .. queue, P .. 'q:' .. queue
  local fields, parts, since = call('HGETALL', key), {}, nil
  for i = 1, #fields, 2 do
    if fields[i] == 'at' then
      since = fields[i + 1]
    else
      local bytes, entries = fields[i + 1]:match('(%d+) (%d+)')
      parts[#parts + 1] = {id = fields[i], bytes = tonumber(bytes), entries = tonumber(entries)}
    end
  end
  local new = call('XREVRANGE', stream, '+', since and '(' .. since or '-', 'COUNT', MEASURED)
  if #new > 0 then
    local bytes = 0
    for _, entry in ipairs(new) do bytes = bytes + size_of(entry[2][2]) end
    call('HSET', key, new[1][1], bytes .. ' ' .. #new, 'at', new[1][1])
    parts[#parts + 1] = {id = new[1][1], bytes = bytes, entries = #new}
  end
  table.sort(parts, function(a, b) return before(b.id, a.id) end)
  local bytes, entries, gone = 0, 0, {}
  for _, part in ipairs(parts) do
    if entries >= length then
      gone[#gone + 1] = part.id
    else
      local left = math.min(part.entries, length - entries)
      bytes, entries = bytes + part.bytes * left / part.entries, entries + left
    end
  end
  if #gone > 0 then in_parts(function(...) call('HDEL', key, ...) end, gone, 1, #gone) end
  return entries > 0 and bytes / entries or 0
end

-- capacity(queue, length, l, large) returns how many entries of their mean size the limits allow. large: one has come that is. A queue
-- that was never measured has had none, so that of few entries nobody has to know the size.
local function capacity(queue, length, l, large)
  local cap = l.messages > 0 and l.messages or math.huge
  if l.bytes > 0 and (large or length * LARGE >= l.bytes or call('EXISTS', P .. 'b:' .. queue) == 1) then
    local mean = measure(queue, length)
    if mean > 0 then cap = math.min(cap, math.max(1, math.floor(l.bytes / mean))) end
  end
  return cap
end

-- full holds the queues that have reached their limits, by ClientID.
local full = {}
if tonumber(meta[2] or 0) > 0 then
  for i, what in ipairs(each_queue('full')) do
    if what then
      local inc, cap, oldest, protected = what:match('(%d+) (%d+) (%d) (%d+)')
      full[ARGV[cids + i]] = {inc = inc, cap = tonumber(cap), oldest = oldest == '1', protected = tonumber(protected)}
    end
  end
end

-- make_room(queue, f, length, keep) removes the oldest entries behind the protected ones until no more than keep are left, or all of
-- those. It returns how many went, by their QoS, or nil if none may. The protected ones are read each time, so it removes some more
-- than it has to.
local function make_room(queue, f, length, keep)
  if not f.oldest or f.protected >= f.cap or length <= f.protected then return nil end
  keep = math.max(keep - math.floor(f.cap / 32), f.protected)
  local dropped, ids = {0, 0, 0}, {}
  local stream = P .. 'q:' .. queue
  local entries = call('XRANGE', stream, '-', '+', 'COUNT', f.protected + math.max(length - keep, 1))
  for i = f.protected + 1, #entries do
    local entry = entries[i]
    local qos = qos_of(entry[2][1]) + 1
    dropped[qos] = dropped[qos] + 1
    ids[#ids + 1] = entry[1]
  end
  in_parts(function(...) call('XDEL', stream, ...) end, ids, 1, #ids)
  return dropped
end

local function dropped_word(dropped)
  if not dropped or dropped[1] + dropped[2] + dropped[3] == 0 then return '' end
  return ':' .. table.concat(dropped, ':')
end

local function sum(a, b)
  if not a or not b then return a or b end
  return {a[1] + b[1], a[2] + b[2], a[3] + b[3]}
end

-- check(i, message) looks whether queue i has reached its limits with a message. It returns what was dropped.
local function check(i, message)
  local cid, queue = ARGV[cids + i], ARGV[tags + i]
  local tag, inc = queue:match('^(.*):(%d+)$')
  local l = limits(call('HGET', P .. 's:' .. tag, 'lim'))
  if not l then return nil end
  local dropped
  for _ = 1, 32 do -- what goes may be smaller than the mean
    local length = call('XLEN', P .. 'q:' .. queue)
    local cap = capacity(queue, length, l, #message > LARGE)
    if length < cap then
      if not dropped and full[cid] and length < cap * 3 / 4 then
        clear_full(cid)
        full[cid] = nil
      end
      break
    end
    local f = {inc = inc, cap = cap, oldest = l.oldest, protected = l.protected}
    full[cid] = f
    set_full(cid, inc .. ' ' .. cap .. ' ' .. (f.oldest and 1 or 0) .. ' ' .. f.protected)
    local more = length > cap and make_room(queue, f, length, cap) or nil
    if not more then break end
    dropped = sum(dropped, more)
  end
  return dropped
end

-- Appending.

-- A message that goes to many queues is stored once: a hash with it and the names of the entries that stand for it, which are
-- "@<size> <number>". Nobody counts who still needs it; lua/sweep.lua looks now and then.

local function store_once(message)
  local number = call('HINCRBY', P .. 'meta', 'shared', 1)
  return {key = P .. 'm:' .. number, name = '@' .. size_of(message) .. ' ' .. number, number = number, fields = {}}
end

local function refer(once, queue, id)
  if not once then return end
  once.fields[#once.fields + 1] = queue .. ' ' .. id
  once.fields[#once.fields + 1] = ''
end

local function finish_once(once, message)
  if #once.fields == 0 then return end
  call('HSET', once.key, 'message', message, 'since', now)
  in_parts(function(...) call('HSET', once.key, ...) end, once.fields, 1, #once.fields)
  call('ZADD', P .. 'shared', now + 1000, once.number)
end

-- forget_group(key) ends a group without entries.
local function forget_group(key)
  if call('XLEN', key) > 0 then return end
  local info = call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local next = tonumber(info[i + 1]:match('-(%d+)')) + 1
      if next > tonumber(meta[4] or 0) then
        meta[4] = string.format('%.0f', next)
        call('HSET', P .. 'meta', 'group', meta[4])
      end
    end
  end
  call('UNLINK', key)
end

local function add_to_queue(i, delivery, message, of, once)
  local cid, queue = ARGV[cids + i], ARGV[tags + i]
  local stream, f, dropped = P .. 'q:' .. queue, full[cid], nil
  if f and queue:sub(-#f.inc - 1) == ':' .. f.inc then
    local length = call('XLEN', stream)
    if length >= f.cap then
      dropped = make_room(queue, f, length, f.cap - 1)
      if not dropped then return REFUSED end
    end
  end
  local id = call('XADD', stream, 'NOMKSTREAM', next_id, delivery, once and once.name or message)
  if not id then return GONE end
  refer(once, 'q:' .. queue, id)
  hint(i, of, message, delivery, id)
  local sequence = id:sub(sequence_at)
  if (tonumber(sequence) + 1) % CHECKED == 0 or #message > LARGE then
    dropped = sum(dropped, check(i, message))
  end
  return DONE .. sequence .. left(i, delivery) .. dropped_word(dropped)
end

local function add_to_inbox(where, whom, message, of)
  local b = inbox(where:sub(3))
  if b.over then return REFUSED end
  tell(b, of, message, whom)
  b.routed[#b.routed + 1] = #results + 1
  return DONE
end

-- Retained messages.

local function forget_retained(topic)
  if call('UNLINK', P .. 'r:' .. topic) == 0 then return end
  call('ZREM', P .. 'retained', topic)
  call('ZREM', P .. 'retexp', topic)
  feed(change(NOT_RETAINED, '', '', '', '', {topic}))
end

-- retain takes a topic and when its message expires in ms, 0 for never, or empty if it has no payload.
local function retain(topic, expiry, message)
  if expiry == '' then return forget_retained(topic) end
  call('SET', P .. 'r:' .. topic, message)
  if call('ZADD', P .. 'retained', 0, topic) == 1 then feed(change(RETAINED, '', '', '', '', {topic})) end
  if expiry ~= '0' then
    call('ZADD', P .. 'retexp', expiry, topic)
  else
    call('ZREM', P .. 'retexp', topic)
  end
end

-- Operations, by their letters.
local operations = {}

-- OpPublish: flags, the message or 0 if nobody gets it; with h: what guarded takes and a Packet Identifier; with w: ClientID, tag,
-- epoch; with r: what retain takes; with q: the topic whose retained message it has to be; with k: a key that must not be noted, the
-- answer to note and until when in ms; then the targets: a queue and the delivery, or an inbox and whom it is for. Other flags are s: a
-- subscription must not have been added since the match; S: one has; m: there has to be room; o: the message is stored once for all
-- queues; K: the key or the answer is too long.
function operations.P()
  local flags, of = take(), take_number()
  local message = ARGV[first_message + of]
  local why, se, packet_id, cid, tag, epoch, topic, expiry, key, answer, expires
  if flags ~= '' then
    if flags:find('h', 1, true) then
      se, why = stored()
      packet_id = take()
      if se and call('SISMEMBER', P .. 'held:' .. se.tag, packet_id) == 1 then why = DUPLICATE end
    end
    if flags:find('w', 1, true) then
      cid, tag, epoch = take(), take(), take()
      if not why and call('HEXISTS', P .. 'w:' .. tag, epoch) == 0 then why = GONE end
    end
    if flags:find('r', 1, true) then topic, expiry = take(), take() end
    if flags:find('q', 1, true) and call('GET', P .. 'r:' .. take()) ~= message and not why then why = GONE end
    if flags:find('k', 1, true) then
      key, answer, expires = P .. 'once:' .. take(), take(), take_number()
      if call('EXISTS', key) == 1 then why = DUPLICATE end
    end
    if flags:find('K', 1, true) then why = REFUSED end
    if not why and no_room and flags:find('m', 1, true) then why = FULL end
    if not why and (flags:find('S', 1, true) or stale and flags:find('s', 1, true)) then why = STALE end
  end
  local targets = take_number()
  published = why or DONE
  if why then
    at = at + 2 * targets
    return result(why)
  end
  if key and expires > now then call('SET', key, answer, 'PXAT', expires) end
  if packet_id then call('SADD', P .. 'held:' .. se.tag, packet_id) end
  if cid then drop_will(cid, tag, epoch) end
  if topic then retain(topic, expiry, message) end
  result(DONE)
  local once = flags:find('o', 1, true) and store_once(message) or nil
  for _ = 1, targets do
    local where, what = take(), take()
    local i = tonumber(where)
    if i then
      result(add_to_queue(i, what, message, of, once))
    elseif where:byte(1) == 103 then -- g
      result(DONE .. add_to_group(where:sub(2), what, message):sub(sequence_at))
    else
      result(add_to_inbox(where, what, message, of))
    end
  end
  if once then finish_once(once, message) end
end

-- Publications in a row that do no more than append to one queue: its place, the delivery of all, how many, and their messages. The one
-- result is DONE with the sequence of the first entry; or GONE, if the queue is; or FULL; or =, and behind that one for each of them.
function operations.Q()
  local i, delivery, n, first = take_number(), take(), take_number(), at
  at = at + n
  published = no_room and FULL or DONE
  if no_room then return result(FULL) end
  local cid, stream, holder = ARGV[cids + i], P .. 'q:' .. ARGV[tags + i], holders[i]
  local plain = not full[cid] and (not joined or holder == me or not holder and not group_of(delivery))
  local done, sequence, dropped = 0, nil, nil
  while plain and done < n do
    done = done + 1
    local message = ARGV[first + done]
    if done == 1 then
      local id = call('XADD', stream, 'NOMKSTREAM', next_id, delivery, message)
      if not id then return result(GONE) end
      sequence = tonumber(id:sub(sequence_at))
    else
      call('XADD', stream, next_id, delivery, message)
    end
    if (sequence + done) % CHECKED == 0 or #message > LARGE then
      dropped = check(i, message)
      plain = not dropped and not full[cid]
    end
  end
  if done == n and not dropped then return result(DONE .. string.format('%.0f', sequence)) end
  result('=')
  for k = 1, done do
    result(DONE .. string.format('%.0f', sequence + k - 1) .. (k == done and dropped_word(dropped) or ''))
  end
  for k = first + done + 1, at do result(add_to_queue(i, delivery, ARGV[k], k)) end
end

-- OpFinish: the tag of a queue, the id of the first entry that stays, or empty; ids of others.
function operations.F()
  local stream, first, ids, removed = P .. 'q:' .. take(), take(), take_list(), 0
  if first ~= '' then removed = call('XTRIM', stream, 'MINID', first) end
  in_parts(function(...) removed = removed + call('XDEL', stream, ...) end, ids, 1, #ids)
  result((removed > 0 or call('EXISTS', stream) == 1) and DONE or GONE)
end

-- OpRelease: what guarded takes, ids.
function operations.R()
  local se, why = stored()
  local ids = take_list()
  if not se then return result(why) end
  in_parts(function(...)
    call('XDEL', P .. 'q:' .. se.tag .. ':' .. se.inc, ...)
    call('SADD', P .. 'rel:' .. se.tag, ...)
  end, ids, 1, #ids)
  result(DONE)
end

-- OpComplete: what guarded takes, ids.
function operations.C()
  local se, why = stored()
  local ids = take_list()
  if not se then return result(why) end
  in_parts(function(...) call('SREM', P .. 'rel:' .. se.tag, ...) end, ids, 1, #ids)
  result(DONE)
end

-- OpUnhold: what guarded takes, a Packet Identifier.
function operations.U()
  local se, why = stored()
  local packet_id = take()
  if se then call('SREM', P .. 'held:' .. se.tag, packet_id) end
  result(why or DONE)
end

-- OpSubscribe: what guarded takes, TopicFilters and options by turns, the record for the feed. Only what changes is told.
function operations.S()
  local se, why = stored()
  local pairs, record, changed = take_list(), take(), 0
  if not se then return result(why) end
  local key = P .. 'sub:' .. se.tag
  for i = 1, #pairs, 2 do
    if call('HGET', key, pairs[i]) ~= pairs[i + 1] then
      call('HSET', key, pairs[i], pairs[i + 1])
      changed = changed + 1
    end
  end
  if changed > 0 then feed(record) end
  result(DONE)
end

-- OpUnsubscribe: what guarded takes, TopicFilters, the record for the feed.
function operations.N()
  local se, why = stored()
  local filters, record, removed = take_list(), take(), 0
  if not se then return result(why) end
  in_parts(function(...) removed = removed + call('HDEL', P .. 'sub:' .. se.tag, ...) end, filters, 1, #filters)
  if removed > 0 then feed(record) end
  result(DONE)
end

-- OpRetain: a message, what retain takes.
function operations.T()
  local message, topic, expiry = ARGV[first_message + take_number()], take(), take()
  if no_room and expiry ~= '' then return result(FULL) end
  retain(topic, expiry, message)
  result(DONE)
end

-- OpDropExpiredRetained: a topic, ms.
function operations.X()
  local topic, due = take(), take_number()
  local expiry = tonumber(call('ZSCORE', P .. 'retexp', topic) or nil)
  if not expiry or expiry > due then return result(GONE) end
  forget_retained(topic)
  result(DONE)
end

-- OpMove: 1 and what guarded takes, or 0; a queue; ids; a limit; 1 and a queue, QoS, 1 for RETAIN, identifiers, or 0.
function operations.M()
  local why, _
  if take() == '1' then _, why = guarded() end
  local from, ids, limit = take(), take_list(), take()
  local from_group = from:byte(1) == 103
  local stream = from_group and from:sub(2) or P .. 'q:' .. ARGV[tags + from]
  local to, qos, retained, identifiers
  if take() == '1' then
    to, qos, retained, identifiers = take(), take_number(), take() == '1', take()
  end
  if not why and call('EXISTS', stream) == 0 then why = GONE end
  if why then return result(why) end

  local entries = {}
  if #ids == 0 then
    if limit ~= '0' then entries = call('XRANGE', stream, '-', '+', 'COUNT', limit) end
  else
    for _, id in ipairs(ids) do
      entries[#entries + 1] = call('XRANGE', stream, id, id)[1]
    end
  end
  local moved, done = {}, {}
  if not to then
    for i, entry in ipairs(entries) do done[i] = entry[1] end
    result(#done > 0 and DONE or GONE)
  else
    local i = tonumber(to)
    local l, length, used = nil, 0, 0
    if i then
      local queue = ARGV[tags + i]
      if call('EXISTS', P .. 'q:' .. queue) == 0 then return result(GONE) end
      l = limits(call('HGET', P .. 's:' .. queue:match('^(.*):%d+$'), 'lim'))
      if l then
        length = call('XLEN', P .. 'q:' .. queue)
        if l.bytes > 0 then used = length * measure(queue, length) end
      end
    end
    local first, word, large, gone
    for _, entry in ipairs(entries) do
      local delivery, message = entry[2][1], whole(entry[2][2])
      if l then
        if l.messages > 0 and length >= l.messages or l.bytes > 0 and used + size_of(message) > l.bytes then
          word = #done == 0 and REFUSED or nil
          break
        end
        length, used, large = length + 1, used + size_of(message), large or #message > LARGE
      end
      if qos > 0 then delivery = redirected(delivery, message, qos, retained, identifiers) end
      local id
      if i then
        id = call('XADD', P .. 'q:' .. ARGV[tags + i], next_id, delivery, message)
        hint(i, 'move', '', delivery, id)
        gone = gone or left(i, delivery)
      else
        id = add_to_group(to:sub(2), delivery, message)
      end
      first = first or id:sub(sequence_at)
      done[#done + 1] = entry[1]
      moved[#moved + 1] = delivery
      moved[#moved + 1] = message
    end
    if large then measure(ARGV[tags + i], length) end
    result(DONE)
    result(word or DONE .. (first or '') .. (gone or '') .. ':' .. #done)
    moves[#moves + 1] = moved
  end
  in_parts(function(...) call('XDEL', stream, ...) end, done, 1, #done)
  if from_group and #done > 0 then forget_group(stream) end
end

-- OpOffline: what guarded takes, Session Expiry Interval, due time in ms or 0, and of the Will: 'x' to remove it, or its due time in ms,
-- 0 for now; the id of the entry that was sent last, or empty; 'g' if the session has something to give back to groups, 'd' if that is
-- done, or empty; how it ended. While it has, it stays among those that whoever reaps this instance looks at.
function operations.O()
  local se, why, cid, found = guarded()
  local sei, due, will, sent, gives, how = take(), take(), take(), take(), take(), take()
  local own = P .. 'own:' .. me
  if gives == 'd' and joined and not (found and found.own == me) then call('ZREM', own, cid) end
  if not se then return result(why) end
  if will == 'x' then
    drop_will(se.cid, se.tag, se.ep)
  elseif will == '0' then
    hurry_will(se)
  elseif call('HEXISTS', P .. 'w:' .. se.tag, se.ep) == 1 then
    call('ZADD', P .. 'wills', will, se.ep .. ':' .. se.cid)
  end
  local dropped, ended = go_offline(se, sei, due, sent, how)
  if ended then known[se.tag] = false elseif gives == 'g' and joined then call('ZADD', own, 0, se.cid) end
  result(DONE .. dropped_word(dropped))
end

-- OpEndSession: ClientID, tag, incarnation, epoch or 0, the id of the entry that was sent last, or empty.
function operations.E()
  local cid, tag, inc, epoch, sent = take(), take(), take(), take(), take()
  local se = session(cid, tag)
  if not se then return result(GONE) end
  if epoch ~= '0' and se.ep ~= epoch then return result(FENCED) end
  if se.inc ~= inc then return result(GONE) end
  hurry_will(se)
  local dropped = end_session(se, sent)
  known[tag] = false
  result(DONE .. dropped_word(dropped))
end

-- OpRoute and OpUnroute: TopicFilters, the record for the feed.
local function route(command)
  local filters, record, changed = take_list(), take(), 0
  if joined then
    in_parts(function(...) changed = changed + call(command, P .. 'routes:' .. me, ...) end, filters, 1, #filters)
    if changed > 0 then feed(record) end
  end
  result(DONE)
end

function operations.A() route('SADD') end

function operations.Z() route('SREM') end

-- What comes into outboxes is counted here, and written once.
local outboxes = {}

-- OpEnqueue: endpoint, data, how many events and how many bytes there may be (0: no bound), 1 if only with the last publication.
function operations.V()
  local endpoint, data, max, max_bytes, only = take(), take(), take_number(), take_number(), take()
  if only == '1' and published ~= DONE then return result(published) end
  local o = outboxes[endpoint]
  if not o then
    o = {matched = 0, added = 0, bytes = 0}
    o.waiting, o.length = waiting(endpoint)
    o.held = tonumber(call('HGET', P .. 'outs:' .. endpoint, 'bytes') or 0)
    outboxes[endpoint] = o
  end
  o.matched = o.matched + 1
  if no_room then return result(FULL) end
  if max > 0 and o.length + o.added >= max or max_bytes > 0 and o.held + o.bytes + #data > max_bytes then return result(REFUSED) end
  add_event(endpoint, data)
  o.added, o.bytes = o.added + 1, o.bytes + #data
  result(DONE)
end

while at < #ARGV do operations[take()]() end

for endpoint, o in pairs(outboxes) do
  if o.added == 0 then create_outbox(endpoint) end
  count_up(endpoint, 'matched', o.matched)
  count_up(endpoint, 'dropped', o.matched - o.added)
  count_up(endpoint, 'bytes', o.bytes)
  if o.added > 0 and not o.waiting then ring(endpoint, me) end
end

for instance, b in pairs(inboxes) do
  local key, id = P .. 'in:' .. instance, true
  if not b.over then
    id = #b.parts == 0 or call('XADD', key, 'NOMKSTREAM', next_id, 'n', table.concat(b.parts))
  elseif b.length < 2 * INBOX then
    call('XADD', key, 'NOMKSTREAM', next_id, 'n', 'o')
  end
  if not id then
    for _, i in ipairs(b.routed) do results[i] = GONE end
  end
end

results = table.concat(results, ' ')
call('HSET', writers, writer, batch .. ' ' .. generation .. ' ' .. results)
return {0, generation, results, news, holders, moves}
