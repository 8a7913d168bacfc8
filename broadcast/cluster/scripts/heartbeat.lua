-- Records that a server is alive, and its position, and checks that it knows the room; comes first
-- after connecting. ARGV: server, epoch, ID of the last entry that it has taken, heartbeat. Removes
-- what is below all floors. Returns the last entry's ID, all heartbeats, a dead server with names.
if call('GET', epoch) ~= ARGV[2] or call('HEXISTS', servers, ARGV[1]) == 0 then
  return VOID
elseif #call('XRANGE', log, ARGV[3], ARGV[3]) == 0 then
  call('DEL', epoch) -- for all others, too: they may have taken what is lost
  return redis.error_reply('LOST Redis does not have what was said last')
end
local beats_of_others, floor = call('HGETALL', beats), string.match(ARGV[4], '%d+$')
for i = 1, #beats_of_others, 2 do
  if beats_of_others[i] ~= ARGV[1] then
    floor = math.min(floor, string.match(beats_of_others[i + 1], '%d+$'))
  end
end
-- Before anything is written: a Redis that is full refuses that, and has to get room first.
call('XTRIM', log, 'MINID', '~', string.format('%d-0', floor))
call('HSET', beats, ARGV[1], ARGV[4])
return {last_id(), call('HGETALL', beats), call('SRANDMEMBER', dead)}
