-- consume.lua says that a consumer of outboxes lives for some time.
--
-- Put plain.lua before it.
-- ARGV[2] consumer
-- ARGV[3] for how long, in ms; 0: it has ended
call('ZREMRANGEBYSCORE', P .. 'consumers', '-inf', now) -- who isn't there is dead
if ARGV[3] == '0' then
  call('ZREM', P .. 'consumers', ARGV[2])
else
  call('ZADD', P .. 'consumers', now + ARGV[3], ARGV[2])
end
return {}
