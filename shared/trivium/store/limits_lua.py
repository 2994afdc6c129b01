"""The scripts of budgets and limits: each is one step for Redis, so that no two requests see the same rest.

A bucket is a hash and a sorted set. The hash has its `period`; `base`, what the ledger knew until a minute;
`spent`, the sum settled since, and `m:<minute>`, its parts; `held`, the sum reserved; `alert:<percent>`. The
set has the reservations, `id|amount` by the moment when they lapse. A month never gives way to one before it:
the clocks of two gateways may differ at its end.
"""

_BUCKET = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local minute = math.floor(now / 60)
local function number(key, field) return tonumber(redis.call('HGET', key, field) or '0') or 0 end
local function turn_over(key, held, period)
  local known = redis.call('HGET', key, 'period')
  if period == '' then period = string.format('%010d', minute) end
  if not known or known < period then
    redis.call('DEL', key, held)
    redis.call('HSET', key, 'period', period)
    redis.call('EXPIRE', key, 3456000)
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', now)) do
    redis.call('ZREM', held, member)
    redis.call('HINCRBYFLOAT', key, 'held', '-' .. string.match(member, '|(.*)$'))
  end
end
"""

RESERVE = (
    _BUCKET
    + """
local id, hold = ARGV[1], tonumber(ARGV[2])
for i = 1, #KEYS / 2 do
  local key, held, at = KEYS[2 * i - 1], KEYS[2 * i], 3 * i
  turn_over(key, held, ARGV[at + 2])
  if ARGV[at + 2] ~= '' and redis.call('HEXISTS', key, 'base') == 0 then return {-2, i - 1} end
  local used = number(key, 'base') + number(key, 'spent') + number(key, 'held')
  if used + tonumber(ARGV[at + 1]) > tonumber(ARGV[at]) * 1.000000001 then
    return {-1, i - 1, tostring(used), tostring(60 - now % 60)}
  end
end
for i = 1, #KEYS / 2 do
  local key, held, amount = KEYS[2 * i - 1], KEYS[2 * i], ARGV[3 * i + 1]
  redis.call('ZADD', held, now + hold, id .. '|' .. amount)
  redis.call('EXPIRE', held, 3456000)
  redis.call('HINCRBYFLOAT', key, 'held', amount)
end
return {1}
"""
)
"""KEYS: hash and set of each bucket. ARGV: id, seconds, then limit, amount, month (or empty) of each."""

SETTLE = (
    _BUCKET
    + """
local key, held = KEYS[1], KEYS[2]
local id, reserved, actual, period, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
turn_over(key, held, period)
if redis.call('HGET', key, 'period') ~= (period == '' and ARGV[6] or period) then return {} end
if redis.call('ZREM', held, id .. '|' .. reserved) == 1 then
  redis.call('HINCRBYFLOAT', key, 'held', '-' .. reserved)
end
redis.call('HINCRBYFLOAT', key, 'spent', actual)
if period == '' then return {} end
redis.call('HINCRBYFLOAT', key, 'm:' .. minute, actual)
local used = number(key, 'base') + number(key, 'spent')
local told = {tostring(used)}
for _, percent in ipairs({50, 80, 100}) do
  if used * 100 >= limit * percent and redis.call('HSETNX', key, 'alert:' .. percent, '1') == 1 then
    told[#told + 1] = percent
  end
end
return told
"""
)
"""KEYS: hash and set. ARGV: id, amount as reserved, amount that was, month, limit, minute reserved in."""

BASE = (
    _BUCKET
    + """
turn_over(KEYS[1], KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'period') ~= ARGV[1] then return 0 end
if ARGV[4] == '1' then
  if redis.call('HEXISTS', KEYS[1], 'base') == 1 then return 0 end
  redis.call('HSET', KEYS[1], 'base', ARGV[2], 'loaded', ARGV[3])
  return 1
end
if tonumber(ARGV[3]) <= number(KEYS[1], 'loaded') then return 0 end
redis.call('HSET', KEYS[1], 'base', ARGV[2])
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local at = string.match(fields[i], '^m:(%d+)$')
  if at and tonumber(at) < tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], fields[i])
    redis.call('HINCRBYFLOAT', KEYS[1], 'spent', '-' .. fields[i + 1])
  end
end
return 1
"""
)
"""KEYS: hash and set. ARGV: month, the ledger's sum, the minute until which it is, 1 for the first time."""
