-- Records that a server is alive, and its position, and checks that it knows the room; comes first
-- after connecting. ARGV: server, epoch, ID of the last entry that it has taken, heartbeat. Removes
-- what is below all floors. Returns the last entry's ID, all heartbeats, a dead server with names.
local known, floor = call('HGET', beats, ARGV[1]), string.match(ARGV[4], '%d+$')
if known and string.match(known, '%d+') - string.match(ARGV[4], '%d+') >= 0 then
  -- It comes late, over a connection that was given up; what it knows may have been removed.
  return redis.error_reply('there was a newer heartbeat')
elseif call('GET', epoch) ~= ARGV[2] then
  return redis.error_reply('LOST Redis has lost the room, or another server has noticed that')
elseif call('HEXISTS', servers, ARGV[1]) == 0 then
  return UNREGISTERED
elseif #call('XRANGE', log, ARGV[3], ARGV[3]) == 0 then
  call('DEL', epoch) -- for all others, too: they may have taken what is lost
  return redis.error_reply('LOST Redis does not have what was said last')
end
for _, beat in ipairs(call('HVALS', beats)) do -- its own last one, too: that only delays the trim
  floor = math.min(floor, string.match(beat, '%d+$'))
end
-- Before anything is written: a Redis that is full refuses that, and has to get room first.
call('XTRIM', log, 'MINID', '~', string.format('%d-0', floor))
call('HSET', beats, ARGV[1], ARGV[4])
return {last_id(), call('HGETALL', beats), call('SRANDMEMBER', dead)}
