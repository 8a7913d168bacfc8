-- Precedes each of the other scripts: the keys, and what several of them do.
--
-- log      stream: what was said and who joined and left, in the one order of the room
-- top      position of the last entry in the log: the bytes that were ever written to it
-- epoch    changes when the log was lost: a word that the first server chose
-- servers  hash: server -> the number of its last write
-- beats    hash: server -> its last heartbeat: "COUNTER POSITION FLOOR"
-- names    hash: key of a name in use -> the name
-- next     hash: key of a name -> the lowest number that was never behind it
-- freed    sorted set, all of score 0: "KEY\0NUMBER" for lower numbers that are free again
-- dead     set: servers that were declared dead and may still own names
-- owned    set: keys of the names of one server
local log, top, epoch, servers, beats, names, next_number, freed, dead, owned = unpack(KEYS)
local call = redis.call

-- An entry's ID is its position, so that distances in the log are bytes. It also has the position
-- of the entry before, so that a reader knows when one is missing.
local function append(origin, fields, size)
  local before = call('GET', top) or '0'
  local position = string.format('%d', before + size + 100)
  call('XADD', log, position .. '-0', 'after', before, 'from', origin, unpack(fields))
  call('SET', top, position)
  return position
end

local FENCED = redis.error_reply('FENCED this server is not registered')

-- Returns the name with the lowest free number, which is found without a search.
local function claim(name, key)
  local base = key
  if call('HEXISTS', names, base) == 1 then
    local number
    local unused = tonumber(call('HGET', next_number, base) or 2)
    repeat -- somebody may have asked for exactly that name
      local first, last = '[' .. base .. '\0', '(' .. base .. '\1'
      local lowest = call('ZRANGEBYLEX', freed, first, last, 'LIMIT', 0, 1)[1]
      if lowest then
        call('ZREM', freed, lowest)
        number = tonumber(string.sub(lowest, #base + 2))
      else
        number = unused
        unused = unused + 1
      end
      key = string.format('%s-%d', base, number)
    until call('HEXISTS', names, key) == 0
    call('HSET', next_number, base, unused)
    name = string.format('%s-%d', name, number)
  end
  call('HSET', names, key, name)
  call('SADD', owned, key)
  return name
end

local function release(key)
  call('HDEL', names, key)
  local base, suffix = string.match(key, '^(.*)%-([1-9]%d*)$')
  local number = tonumber(suffix)
  local unused = base and tonumber(call('HGET', next_number, base))
  if unused and number >= 2 and number < unused then
    call('ZADD', freed, 0, string.format('%s\0%010d', base, number))
    local first, last = '[' .. base .. '\0', '(' .. base .. '\1'
    if call('ZLEXCOUNT', freed, first, last) == unused - 2 then -- all are free
      call('ZREMRANGEBYLEX', freed, first, last)
      call('HDEL', next_number, base)
    end
  end
end
