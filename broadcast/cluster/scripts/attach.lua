-- Lets a server go on after it was away. ARGV: server, epoch, position, heartbeat.
-- Returns why it can't, or nothing. It begins with a write that changes nothing, so that a Redis
-- that takes no writes is not mistaken for one that can be used again.
call('HSET', beats, ARGV[1], ARGV[4])
local reason
if call('GET', epoch) ~= ARGV[2] then
  reason = 'Redis has lost its data'
elseif call('HEXISTS', servers, ARGV[1]) == 0 then
  reason = 'the other servers took this one for dead'
elseif #call('XRANGE', log, ARGV[3] .. '-0', ARGV[3] .. '-0') == 0 then
  reason = 'Redis has lost what was said last'
end
if reason and call('HEXISTS', servers, ARGV[1]) == 0 then
  call('HDEL', beats, ARGV[1])
end
return reason
