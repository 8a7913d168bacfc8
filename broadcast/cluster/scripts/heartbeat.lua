-- Says that a server lives and where it is, and checks that it still knows the room; when it has
-- connected, it comes first. ARGV: server, epoch, position, heartbeat. Removes from the log what is
-- below all floors. Returns the log's end, all heartbeats, and a dead server that may own names.
if call('GET', epoch) ~= ARGV[2] or call('HEXISTS', servers, ARGV[1]) == 0 then
  return VOID
elseif #call('XRANGE', log, ARGV[3] .. '-0', ARGV[3] .. '-0') == 0 then
  call('DEL', epoch) -- for all others, too: what is lost could get its ID back by another entry
  return redis.error_reply('LOST Redis does not have what was said last')
end
call('HSET', beats, ARGV[1], ARGV[4])
local all, floor = call('HGETALL', beats), math.huge
for i = 2, #all, 2 do
  floor = math.min(floor, string.match(all[i], '%d+$'))
end
call('XTRIM', log, 'MINID', '~', string.format('%d-0', floor))
return {call('GET', top), all, call('SRANDMEMBER', dead)}
