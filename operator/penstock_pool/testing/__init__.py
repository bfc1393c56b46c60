"""Faults to order, for tests of whatever talks to MySQL or MariaDB: a server that says what it is told to,
and a proxy that breaks the network before any server. Standard library only.

Your app survives a dead database? Ten lines tell:

    from penstock_pool.testing import FakeMySQL, Rows

    async def test_the_shop_survives_a_dead_database():
        wares = {"SELECT name FROM wares": Rows(["name"], [["a pipe"]])}
        async with FakeMySQL(wares) as server:
            shop = await open_shop(host=server.host, port=server.port)
            assert await shop.wares() == ["a pipe"]
            await server.crash()
            assert await shop.wares() == "closed for repair"
            await server.start()
            assert await shop.wares() == ["a pipe"]

`FakeMySQL` is told what to answer (`Rows`, `Ok`, `ServerError`, or a function that makes one), and what is to
happen to what it sends (`Delay`, `Mute`, `Cut`, or a `ServerError` instead), for all connections or for one:

    server.refuse(1040)                                      # greets with "Too many connections"
    server.inject("greeting", Mute(), connection=3)          # accepts the third and stays silent
    server.inject("row", Cut(after=5, how="rst"), times=1)   # resets within a row, once
    await server.sessions[0].close(saying=ServerError(4031)) # as an idle connection is ended
    server.read_only = True                                  # as after a failover
    server.heal()

It records who connected and when (`attempts`), how many at once (`most`), and what each session asked.

`FaultProxy` stands before any server, real or fake:

    async with FaultProxy("127.0.0.1", 3306) as proxy:
        proxy.cut(after=80)         # every connection, when 80 bytes have come from the server
        proxy.freeze()              # holds everything back until proxy.thaw()
        proxy.drop()                # loses everything, and nobody is told
        await proxy.reset()         # RST to all who are there

`FakeDriver` is a database without sockets, behind the pool itself, for tests of what is done with one:

    ConnectionPool(Server(user="app"), driver=FakeDriver(connect_time=0.05))
"""

from penstock_pool.testing.answers import Asked, Cut, Delay, Mute, Ok, Rows, ServerError
from penstock_pool.testing.fake_driver import FakeDriver, FakeServerError
from penstock_pool.testing.proxy import FaultProxy
from penstock_pool.testing.server import MARIADB, MYSQL, FakeMySQL
from penstock_pool.testing.session import Session

__all__ = [
    "MARIADB",
    "MYSQL",
    "Asked",
    "Cut",
    "Delay",
    "FakeDriver",
    "FakeMySQL",
    "FakeServerError",
    "FaultProxy",
    "Mute",
    "Ok",
    "Rows",
    "ServerError",
    "Session",
]
