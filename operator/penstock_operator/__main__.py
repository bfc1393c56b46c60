"""`penstock-operator`: the composition root. Settings, cluster, agenda and kopf are put together here."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

import kopf

from penstock_operator import handlers
from penstock_operator.agenda import Agenda, Key, Outcome
from penstock_operator.cluster import connected
from penstock_operator.desired import MANAGER
from penstock_operator.errors import InvalidSettings, Unavailable
from penstock_operator.reconcile import reconcile
from penstock_operator.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Until SIGTERM or Ctrl-C. 2: wrong usage, 3: no cluster."""
    told = _parser().parse_args(arguments)
    try:
        settings = Settings(
            image=told.image,
            namespaces=tuple(told.namespace),
            port=told.port or None,
            resync=told.resync,
        )
        kopf.configure(verbose=told.verbose)
        logging.getLogger("aiohttp.access").setLevel(logging.WARNING)  # each probe would be a line
        asyncio.run(serve(settings))
    except InvalidSettings as error:
        return _ended(error, 2)
    except Unavailable as error:
        return _ended(error, 3)
    return 0


async def serve(settings: Settings) -> None:
    """Looks after pools until it is told to stop."""
    async with connected() as cluster, asyncio.TaskGroup() as tasks:

        async def look(key: Key) -> Outcome:
            return await reconcile(cluster, key, settings.image)

        everywhere = not settings.namespaces
        agenda = Agenda(look, tasks, looks=settings.looks, resync=settings.resync)
        await kopf.operator(
            registry=handlers.registry(agenda),
            settings=handlers.settings(everywhere=everywhere),
            # Else kopf asks for the user's name, and a container's user may have none.
            identity=MANAGER,  # type: ignore[arg-type]
            clusterwide=everywhere,
            namespaces=settings.namespaces,
            liveness_endpoint=f"http://0.0.0.0:{settings.port}/healthz" if settings.port else None,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "penstock-operator", description="Runs what ConnectionPool resources ask for."
    )
    parser.add_argument("--image", required=True, help="of the data service, for pools that name none")
    parser.add_argument("--namespace", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument(
        "--port", type=int, default=8081, help="where /healthz answers (default: 8081; 0: nowhere)"
    )
    parser.add_argument(
        "--resync", type=float, default=300.0, help="seconds after which every pool is looked at"
    )
    parser.add_argument("--verbose", action="store_true", help="tell every event")
    return parser


def _ended(error: Exception, code: int) -> int:
    sys.stderr.write(f"penstock-operator: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
