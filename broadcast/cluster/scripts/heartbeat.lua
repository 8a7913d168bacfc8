-- Tells that a server lives, and where it is. ARGV: server, "COUNTER POSITION FLOOR".
-- Removes what no server needs any more from the log: what is below all floors.
-- Returns the log's end, all heartbeats, and a dead server that may still own names.
if call('HEXISTS', servers, ARGV[1]) == 0 then
  return FENCED
end
call('HSET', beats, ARGV[1], ARGV[2])
local all = call('HGETALL', beats)
local floor
for i = 2, #all, 2 do
  local other = tonumber(string.match(all[i], '%d+$'))
  if not floor or other < floor then
    floor = other
  end
end
call('XTRIM', log, 'MINID', '~', string.format('%d-0', floor))
return {call('GET', top), all, call('SRANDMEMBER', dead)}
