-- generation(meta) returns the generation of this Redis process, as a string, and its run_id. The first who sees another run_id than
-- the one in meta sets the next generation: what was numbered before may have been lost.
--
-- Each script that adds to a stream gives it ids of `<generation>-*`. Put this file before such a script.
local function generation(meta)
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local known = redis.call('HMGET', meta, 'run_id', 'generation')
  if known[1] == run_id then return known[2], run_id end
  local time = redis.call('TIME')
  -- In ms: a process that lost its generation with its data may have begun in the same second as this one.
  local next = string.format('%.0f', math.max(tonumber(known[2] or 0) + 1, time[1] * 1000 + math.floor(time[2] / 1000)))
  redis.call('HSET', meta, 'run_id', run_id, 'generation', next)
  return next, run_id
end
