-- change(kind, client_id, incarnation, instance, epoch, filters) returns a record of the feed, see change.go. All but kind, which is
-- one of those below, are strings. Each of filters is a Topic Filter or Topic Name. Put this file before a script that needs it; the
-- script adds the record with
--
--   redis.call('XADD', feed, 'MAXLEN', '~', FEED_LENGTH, generation .. '-*', 'c', change(…))
local SUBSCRIBED, OWNER, ENDED, ROUTED, DEAD, RETAINED, NOT_RETAINED, BANNED, UNBANNED = 1, 3, 4, 5, 7, 8, 9, 10, 11
local FEED_LENGTH = 100000
local function change(kind, client_id, incarnation, instance, epoch, filters)
  local record = struct.pack('>BI2c0I2c0I2c0I2c0', kind, #client_id, client_id, #incarnation, incarnation, #instance, instance,
    #epoch, epoch)
  for _, filter in ipairs(filters or {}) do
    record = record .. struct.pack('>I2c0', #filter, filter)
  end
  return record
end
