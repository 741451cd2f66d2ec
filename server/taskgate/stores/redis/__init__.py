"""Tasks in Redis: one server, a primary that Sentinel watches, or a Redis Cluster.

``location`` parses URLs, ``dialer`` opens connections, ``connection`` is one of them, ``multiplexer`` shares them among
callers, ``sentinel`` and ``cluster`` find the server to ask, ``store`` reads and ``writer`` writes.
"""

from taskgate.stores.redis.location import Kind, Location, locate
from taskgate.stores.redis.store import RedisStore
from taskgate.stores.redis.writer import RedisWriter

__all__ = ["Kind", "Location", "RedisStore", "RedisWriter", "locate"]
