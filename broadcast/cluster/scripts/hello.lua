-- Registers a new server. ARGV: server, an epoch if there is none, what it was before and no more.
-- Returns the epoch and the position from which the server reads on.
for i = 3, #ARGV do
  if call('HDEL', servers, ARGV[i]) == 1 then
    call('HDEL', beats, ARGV[i])
    call('SADD', dead, ARGV[i])
  end
end
call('SET', epoch, ARGV[2], 'NX')
call('HSET', servers, ARGV[1], 0)
local position = append(' 0 0', {'hello', ARGV[1]})
call('HSET', beats, ARGV[1], '0 ' .. position .. ' ' .. position)
return {call('GET', epoch), position}
