-- Frees some names of a dead server: `owned` is its. ARGV: server, how many names, why, and its
-- last known heartbeat if it is to be declared dead, which it is only if it has sent none since.
-- Returns whether there is more to do.
if ARGV[4] then
  if call('HGET', beats, ARGV[1]) ~= ARGV[4] then
    return 0
  end
  call('HDEL', beats, ARGV[1])
  call('HDEL', servers, ARGV[1])
  call('SADD', dead, ARGV[1])
end
local keys = call('SPOP', owned, ARGV[2])
local fields, size = {}, 0
for _, key in ipairs(keys) do
  local value = call('HGET', names, key) .. ' ' .. ARGV[3]
  fields[#fields + 1] = 'leave'
  fields[#fields + 1] = value
  size = size + #value
  release(key)
end
if #keys > 0 then
  append('', fields, size)
  return 1
end
call('SREM', dead, ARGV[1])
return 0
