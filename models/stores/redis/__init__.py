"""The store of several machines: Redis 7 or Valkey, one server or a cluster.

`store` holds `RedisStore`, `config` says where it is, `layout` tells how it lies there. The client
library comes with `pip install 'ebb[redis]'`; nothing here is imported without need of it.
"""
