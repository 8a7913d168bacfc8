-- Registers a new server. ARGV: server, an epoch if there is none. Returns epoch and entry's ID.
call('SET', epoch, ARGV[2], 'NX')
call('HSET', servers, ARGV[1], 0)
local id, position = append(' 0 0', {'hello', ARGV[1]}, 0, ARGV[1])
call('HSET', beats, ARGV[1], string.format('0 %d %d', position, position))
return {call('GET', epoch), id}
