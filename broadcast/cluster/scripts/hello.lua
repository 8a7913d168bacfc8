-- Registers a new server. ARGV: server, and an epoch if there is none. Returns epoch and position.
call('SET', epoch, ARGV[2], 'NX')
call('HSET', servers, ARGV[1], 0)
local position = append(' 0 0', {'hello', ARGV[1]})
call('HSET', beats, ARGV[1], '0 ' .. position .. ' ' .. position)
return {call('GET', epoch), position}
