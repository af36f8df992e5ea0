-- What scripts begin with that change no session.
--
-- ARGV[1] prefix of all keys
local P, call = ARGV[1], redis.call
local generation = call('HGET', P .. 'meta', 'generation')
local next_id = generation .. '-*'
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- in_parts(f, list, from, to) calls f with parts of a list: the stack has room for some thousand values.
local function in_parts(f, list, from, to)
  for i = from, to, 1000 do f(unpack(list, i, math.min(i + 999, to))) end
end
