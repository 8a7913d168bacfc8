-- Declares a server dead, unless it has sent another heartbeat since the given one, and frees some
-- of its names; returns 1 if there are more, else 0. ARGV: server, how many, why, last heartbeat.
if ARGV[4] and call('HGET', beats, ARGV[1]) ~= ARGV[4] then
  return 0
elseif ARGV[4] then
  call('HDEL', beats, ARGV[1])
  call('HDEL', servers, ARGV[1])
  call('SADD', dead, ARGV[1])
end
local fields = {}
for _, key in ipairs(call('SPOP', owned, ARGV[2])) do
  local text = call('HGET', names, key) .. ' ' .. ARGV[3]
  fields[#fields + 1], fields[#fields + 2] = 'leave', text
  release(key)
end
if #fields == 0 then
  return call('SREM', dead, ARGV[1]) * 0 -- whether it was there or not
end
-- The source depends on the names, which SPOP chooses at random: done again after a loss, this must
-- not have the same ID with other names.
append(' 0 0', fields, 200 * #fields, redis.sha1hex(table.concat(fields)))
return 1
