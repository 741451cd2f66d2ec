"""Tasks in Redis: one server, a primary that Sentinel watches, or a Redis Cluster.

``location`` understands URLs, ``connection`` speaks to one server, ``link`` keeps connections to it, ``sentinel`` and
``cluster`` know which server to ask, ``store`` reads and ``writer`` writes.
"""

from taskgate.stores.redis.location import Kind, Location, locate
from taskgate.stores.redis.store import RedisStore
from taskgate.stores.redis.writer import RedisWriter

__all__ = ["Kind", "Location", "RedisStore", "RedisWriter", "locate"]
