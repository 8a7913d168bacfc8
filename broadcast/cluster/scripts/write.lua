-- Appends what a server's clients did. ARGV: server, number of this write, time, then for each
-- event: kind, value, key. Sent again after a lost reply, it is executed once.
local number, last = tonumber(ARGV[2]), tonumber(call('HGET', servers, ARGV[1]))
if not last then
  return FENCED
elseif number <= last then
  return
elseif number > last + 1 then
  return redis.error_reply('GAP ' .. number .. ' was written after ' .. last)
end
local fields, size = {}, 0
for i = 4, #ARGV, 3 do
  local kind, value, key = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if kind == 'join' then
    value = claim(value, key)
  elseif kind == 'leave' then
    call('SREM', owned, key)
    release(key)
  end
  fields[#fields + 1] = kind
  fields[#fields + 1] = value
  size = size + #value
end
append(ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3], fields, size)
call('HSET', servers, ARGV[1], number)
