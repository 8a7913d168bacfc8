-- Appends what a server's clients did. ARGV: server, number of this write, its size, the time, then
-- for each event: kind, text, key. Sent again after a lost reply, it is executed once.
local number, last = tonumber(ARGV[2]), tonumber(call('HGET', servers, ARGV[1]))
if not last then
  return UNREGISTERED
elseif number <= last then
  return
elseif number > last + 1 then
  return redis.error_reply('LOST Redis does not have what was written last')
end
local fields = {}
for i = 5, #ARGV, 3 do
  local kind, text, key = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if kind == 'join' then
    text = claim(text, key)
  elseif kind == 'leave' then
    call('SREM', owned, key)
    release(key)
  end
  fields[#fields + 1], fields[#fields + 2] = kind, text
end
append(ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[4], fields, ARGV[3], ARGV[1])
call('HSET', servers, ARGV[1], number)
