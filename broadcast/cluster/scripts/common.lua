-- Precedes each of the other scripts: the keys, and what several of them do.
-- log      stream: what was said, who joined and left, in the one order of the room
-- top      ID of its last entry, which begins with its position: roughly the bytes ever logged
-- epoch    a random word; another one means that the log was lost
-- servers  hash: server -> number of its last write
-- beats    hash: server -> last heartbeat, "COUNTER POSITION FLOOR"
-- names    hash: key of a name in use -> the name
-- next     hash: key of a name -> lowest number never appended to it
-- freed    sorted set, all of score 0: "KEY\0NUMBER" for lower numbers that are free again
-- dead     set: servers that were declared dead, and may still own names
-- owned    set: keys of the names of one server
local log, top, epoch, servers, beats, names, next_number, freed, dead, owned = unpack(KEYS)
local call = redis.call
-- The servers raise LostError for a reply that begins with LOST, and are cut off.
local UNREGISTERED = redis.error_reply('LOST this server is not registered any more')

-- XREVRANGE alone would do, but it returns the entry, and Lua hashes all of that.
local function last_id()
  return call('GET', top) or (call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1] or {'0-0'})[1]
end

-- An entry's ID is its position, and its source (hexadecimal) as a number, so that another entry
-- never gets the same. Its first field is the ID of the entry before it, so that a missing one is
-- noticed; the value is where it comes from.
local function append(origin, fields, size, source)
  local last = last_id()
  local position = string.match(last, '%d+') + 100 + size
  local id = string.format('%d-%d', position, tonumber(string.sub(source, 1, 8), 16))
  call('XADD', log, id, last, origin, unpack(fields))
  call('SET', top, id)
  return id, position
end

local function numbers_of(base)
  return '[' .. base .. '\0', '(' .. base .. '\1'
end

-- Returns the name, with the lowest free number if it is taken; that is found without a search.
local function claim(name, base)
  local key, first, last = base, numbers_of(base)
  while call('HEXISTS', names, key) == 1 do -- again if somebody has asked for exactly that name
    local lowest = call('ZRANGEBYLEX', freed, first, last, 'LIMIT', 0, 1)[1]
    if lowest then
      call('ZREM', freed, lowest)
    else
      call('HSETNX', next_number, base, 2)
      lowest = base .. '\0' .. (call('HINCRBY', next_number, base, 1) - 1)
    end
    key = string.format('%s-%d', base, string.sub(lowest, #base + 2))
  end
  name = name .. string.sub(key, #base + 1)
  call('HSET', names, key, name)
  call('SADD', owned, key)
  return name
end

local function release(key)
  call('HDEL', names, key)
  local base, number = string.match(key, '^(.*)%-([1-9]%d*)$')
  local unused = base and tonumber(call('HGET', next_number, base))
  if unused and tonumber(number) >= 2 and tonumber(number) < unused then
    call('ZADD', freed, 0, string.format('%s\0%010d', base, number))
    if call('ZLEXCOUNT', freed, numbers_of(base)) == unused - 2 then -- all are free
      call('ZREMRANGEBYLEX', freed, numbers_of(base))
      call('HDEL', next_number, base)
    end
  end
end
