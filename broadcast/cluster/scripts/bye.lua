-- Unregisters a server that ends; names that it could not free are freed by another one.
-- ARGV: server.
if call('HEXISTS', servers, ARGV[1]) == 0 then
  return FENCED
end
call('HDEL', servers, ARGV[1])
call('HDEL', beats, ARGV[1])
if call('EXISTS', owned) == 1 then
  call('SADD', dead, ARGV[1])
end
