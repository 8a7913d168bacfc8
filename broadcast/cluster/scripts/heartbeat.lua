-- Records that a server is alive, and its position, and checks that it knows the room; comes first
-- after connecting. ARGV: server, epoch, ID of the last entry that it has taken, heartbeat. Removes
-- what is below all floors. Returns the last entry's ID, all heartbeats, a dead server with names.
local beats_before, floor = call('HGETALL', beats), string.match(ARGV[4], '%d+$')
for i = 1, #beats_before, 2 do
  if beats_before[i] ~= ARGV[1] then
    floor = math.min(floor, string.match(beats_before[i + 1], '%d+$'))
  elseif string.match(beats_before[i + 1], '%d+') - string.match(ARGV[4], '%d+') >= 0 then
    -- It comes late, over a connection that was given up; what it knows may have been removed.
    return redis.error_reply('there was a newer heartbeat')
  end
end
if call('GET', epoch) ~= ARGV[2] then
  return redis.error_reply('LOST Redis has lost the room, or another server has noticed that')
elseif call('HEXISTS', servers, ARGV[1]) == 0 then
  return UNREGISTERED
elseif #call('XRANGE', log, ARGV[3], ARGV[3]) == 0 then
  call('DEL', epoch) -- for all others, too: they may have taken what is lost
  return redis.error_reply('LOST Redis does not have what was said last')
end
-- Before anything is written: a Redis that is full refuses that, and has to get room first.
call('XTRIM', log, 'MINID', '~', string.format('%d-0', floor))
call('HSET', beats, ARGV[1], ARGV[4])
return {last_id(), call('HGETALL', beats), call('SRANDMEMBER', dead)}
