"""Connections to MySQL and MariaDB, pooled; and a pool of workers for CPU-bound work.

    async with ConnectionPool("mysql://app@db/shop") as pool:
        async with pool.connection() as connection:
            await connection.fetch("SELECT 1")

Importing this needs the standard library only; a `ConnectionPool` needs asyncmy.
"""

from penstock_pool.compute import ComputePool
from penstock_pool.connection import Connection
from penstock_pool.pool import ConnectionPool
from penstock_pool.settings import Limit, PoolSettings, Server
from penstock_pool.stats import LimitStats, PoolStats
from penstock_pool.watch import Listener, Statement

__all__ = [
    "ComputePool",
    "Connection",
    "ConnectionPool",
    "Limit",
    "LimitStats",
    "Listener",
    "PoolSettings",
    "PoolStats",
    "Server",
    "Statement",
]
