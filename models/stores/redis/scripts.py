"""What runs inside the server: each script is one atomic step within one partition.

The server runs a script to its end before anything else, keeps its writes together in the
append-only file, and refuses it as a whole, before its first write, when it is out of memory. Those
marked `allow-oom` run even then: who wants to forget must not be told that the store is full.

A write is checked and then set. Python reads a user, works out the new state with the shared pure
functions, and `COMMIT` stores it only if nobody wrote that user (`version`) or forgot anything in
the partition (`epoch`) in between. Both are random tokens, so nothing comes back to an old value;
and a write that is sent twice, its reply being lost, knows its own token and is done once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Script:
    """Lua, called by its digest so that its text goes over the wire once."""

    text: str

    @cached_property
    def sha(self) -> str:
        """As `SCRIPT LOAD` names it."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_READ = """#!lua flags=no-writes
local user, state, events, graves, meta = unpack(KEYS)
local shared = redis.call('HMGET', meta, 'epoch', 'floor')
local known = {}
for n = 1, #ARGV do known[n] = redis.call('HEXISTS', events, ARGV[n]) end
return {redis.call('HGET', user, 'version'), shared[1], shared[2], redis.call('HGETALL', graves),
        redis.call('GETRANGE', state, 0, 1), known}
"""

_WHOLE = """#!lua flags=no-writes
local user, state, events, graves, meta, late = unpack(KEYS)
local held = redis.call('HMGET', user, 'version', 'id')
local shared = redis.call('HMGET', meta, 'epoch', 'floor')
return {held[1], shared[1], shared[2], redis.call('HGETALL', graves),
        redis.call('GET', state), held[2], redis.call('HGETALL', events),
        redis.call('HGETALL', late)}
"""

_COMMIT = """
local user, state, events, places, late, graves = unpack(KEYS, 1, 6)
local stream, users, latecomers, buried, meta = unpack(KEYS, 7)
local version, epoch, token, name, id, how, bytes, watermark, first = unpack(ARGV, 1, 9)
local held = redis.call('HGET', user, 'version') or ''
local shared = redis.call('HMGET', meta, 'epoch', 'fence', 'watermark')
local since = shared[1] or ''
if held == token or since == token then return 'done' end
if held ~= version or since ~= epoch then return 'moved' end
if first ~= '' and shared[2] and tonumber(first) <= tonumber(shared[2]) then
  return 'fence' .. shared[2]
end

local at = 9
local function take() at = at + 1; return ARGV[at] end
local function each(width, f)  -- for things of one width, joined to one argument
  local joined = take()
  for n = 1, #joined, width do f(joined:sub(n, n + width - 1)) end
  return #joined > 0
end
local function listed(set, member, yes)
  if yes then redis.call('ZADD', set, 0, member) else redis.call('ZREM', set, member) end
end

each(8, function(event)  -- events that go
  redis.call('HDEL', events, event)
  redis.call('ZREM', stream, name .. event)
end)
each(18, function(place) redis.call('ZREM', places, place) end)
local later = each(8, function(event) redis.call('HDEL', late, event) end)
for _ = 1, tonumber(take()) do redis.call('HDEL', graves, take()) end
for _ = 1, tonumber(take()) do  -- events that come
  local event, place, value, sequence = take(), take(), take(), take()
  redis.call('HSET', events, event, value)
  if place ~= '' then redis.call('ZADD', places, 0, place) end
  if sequence ~= '' then redis.call('ZADD', stream, sequence, name .. event) end
end
for _ = 1, tonumber(take()) do
  redis.call('HSETNX', late, take(), take())
  later = true
end
local forgets = tonumber(take())
for _ = 1, forgets do redis.call('HSET', graves, take(), take()) end

if later then listed(latecomers, name, redis.call('EXISTS', late) == 1) end
if forgets > 0 then
  listed(buried, name, true)
  redis.call('HSET', meta, 'epoch', token)
end
local had = redis.call('EXISTS', state) == 1
local has = had
if how == 'lay' then  -- events behind a state: the head says how many there are
  redis.call('SETRANGE', state, 0, bytes:sub(1, 2))
  redis.call('APPEND', state, bytes:sub(3))
elseif how == 'put' then
  has = bytes ~= ''
  if has then redis.call('SET', state, bytes) else redis.call('DEL', state) end
end
if has ~= had then listed(users, id, has) end
if has or redis.call('EXISTS', late) == 1 then
  redis.call('HSET', user, 'version', token, 'id', id)
else
  redis.call('DEL', user)
end
if tonumber(watermark) > tonumber(shared[3] or '0') then
  redis.call('HSET', meta, 'watermark', watermark)
end
return 'done'
"""

_FENCE = """#!lua flags=allow-oom
local held = redis.call('HMGET', KEYS[1], 'fence', 'watermark', 'floor')
if tonumber(ARGV[1]) > tonumber(held[1] or '0') then
  redis.call('HSET', KEYS[1], 'fence', ARGV[1])
end
return {held[2], held[3]}
"""

_RAISE = """#!lua
for n = 1, #ARGV, 2 do
  if tonumber(ARGV[n + 1]) > tonumber(redis.call('HGET', KEYS[1], ARGV[n]) or '0') then
    redis.call('HSET', KEYS[1], ARGV[n], ARGV[n + 1])
  end
end
return 'done'
"""

_RESERVE = """#!lua
local last = tonumber(redis.call('HGET', KEYS[1], 'sequence') or '0')
last = math.max(last, tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'sequence', string.format('%.0f', last + tonumber(ARGV[1])))
return last + 1
"""

READ = Script(_READ)
"""Keys user, state, events, graves, meta; arguments event keys. Gives what a judgement needs."""
WHOLE = Script(_WHOLE)
"""The same keys and late. Gives all that there is of a user."""
COMMIT = Script("#!lua" + _COMMIT)
"""Keys and arguments as `writing.Change` packs them. Gives `done`, `moved` or `fence<n>`."""
FORGET = Script("#!lua flags=allow-oom" + _COMMIT)
"""The same in a server without memory to spare."""
FENCE = Script(_FENCE)
"""Key meta of a partition, argument a sequence number: no event commits up to it from now on."""
RAISE = Script(_RAISE)
"""Key a meta, arguments names and numbers: raises what is lower."""
RESERVE = Script(_RESERVE)
"""Key the store's meta, arguments n and a least number: gives the first of n new numbers."""

ALL = (READ, WHOLE, COMMIT, FORGET, FENCE, RAISE, RESERVE)
