-- What the scripts share that change outboxes. It takes for granted P, call, generation, next_id and now, as plain.lua has them.
--
-- out:<endpoint> is a stream of events, each with its data and when it came, and has the group `d`, whose consumers are those of the
-- outbox. outs:<endpoint> is a hash of what can't be read off it: matched, delivered, dropped, bytes, dead_bytes, disabled.
-- dl:<endpoint> is a sorted set of dead letters, see bury.lua. outboxes is one of the endpoints.

-- create_outbox(endpoint) makes one unless it is there. Its events have ids behind all that one had in this generation that was removed.
local function create_outbox(endpoint)
  local key = P .. 'out:' .. endpoint
  if call('EXISTS', key) == 1 then return end
  call('XGROUP', 'CREATE', key, 'd', '0', 'MKSTREAM')
  call('XSETID', key, generation .. '-' .. (call('HGET', P .. 'meta', 'event') or '0'))
  call('ZADD', P .. 'outboxes', 0, endpoint)
end

local function add_event(endpoint, data)
  local key = P .. 'out:' .. endpoint
  if not call('XADD', key, 'NOMKSTREAM', next_id, 'd', data, 't', now) then
    create_outbox(endpoint)
    call('XADD', key, next_id, 'd', data, 't', now)
  end
end

local function count_up(endpoint, name, n)
  if n ~= 0 then call('HINCRBY', P .. 'outs:' .. endpoint, name, n) end
end

-- waiting(endpoint) says whether there are events that nobody has taken.
local function waiting(endpoint)
  local key = P .. 'out:' .. endpoint
  local length = call('XLEN', key)
  return length > 0 and length > call('XPENDING', key, 'd')[1], length
end

-- ring(endpoint, from) tells all instances but the one named that there are events: where there were none, since who has taken until
-- none was left waits for that.
local function ring(endpoint, from)
  if from == '' or call('ZCARD', P .. 'leases') > 1 then
    call('XADD', P .. 'bells', 'MAXLEN', '~', 128, next_id, 'e', endpoint, 'i', from)
  end
end

-- event(endpoint, id) returns an event's entry, or nil.
local function event(endpoint, id) return call('XRANGE', P .. 'out:' .. endpoint, id, id)[1] end

-- remove_events(endpoint, ids, bytes) takes events out that are there.
local function remove_events(endpoint, ids, bytes)
  local key = P .. 'out:' .. endpoint
  in_parts(function(...)
    call('XACK', key, 'd', ...)
    call('XDEL', key, ...)
  end, ids, 1, #ids)
  count_up(endpoint, 'bytes', -bytes)
end

-- letter_key(id) is what the name of a dead letter begins with: so they are in the order of their ids.
local function letter_key(id)
  local g, s = id:match('^(%d+)-(%d+)$')
  return string.rep('0', 20 - #g) .. g .. string.rep('0', 20 - #s) .. s
end

-- letter_data(letter) is the data of a dead letter: behind its key and its head.
local function letter_data(letter)
  local length, behind = letter:match('^(%d+):()', 41)
  return letter:sub(behind + length)
end
