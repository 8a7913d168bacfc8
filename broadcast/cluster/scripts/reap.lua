-- Unregisters a server and frees some of its names, which `owned` has. ARGV: server, how many
-- names, why, and the last known heartbeat of one that is registered: if it has sent another one
-- since, nothing is done. Returns whether there is more to do.
if ARGV[4] then
  if call('HGET', beats, ARGV[1]) ~= ARGV[4] then
    return 0
  end
  call('HDEL', beats, ARGV[1])
  call('HDEL', servers, ARGV[1])
  call('SADD', dead, ARGV[1])
end
local fields = {}
for _, key in ipairs(call('SPOP', owned, ARGV[2])) do
  fields[#fields + 1] = 'leave'
  fields[#fields + 1] = call('HGET', names, key) .. ' ' .. ARGV[3]
  release(key)
end
if #fields > 0 then
  append(' 0 0', fields)
  return 1
end
return call('SREM', dead, ARGV[1]) * 0
