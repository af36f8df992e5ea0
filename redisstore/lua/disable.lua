-- disable.lua notes why an endpoint gets nothing.
--
-- Put plain.lua and outbox.lua before it.
-- ARGV[2] endpoint
-- ARGV[3] why; empty: it does
create_outbox(ARGV[2])
call('HSET', P .. 'outs:' .. ARGV[2], 'disabled', ARGV[3])
return {}
