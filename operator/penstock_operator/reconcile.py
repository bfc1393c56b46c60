"""A look at a pool: the same for a new one, a changed one and one whose objects were touched."""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime

from penstock_operator import desired
from penstock_operator.agenda import Key, Outcome
from penstock_operator.cluster import Cluster, Resource
from penstock_operator.errors import InvalidSpec, Refused
from penstock_operator.spec import Pool, read
from penstock_operator.status import Condition, Verdicts, counts, refused, seen, status

logger = logging.getLogger(__name__)


async def reconcile(cluster: Cluster, key: Key, image: str) -> Outcome:
    """`image`: of pools that name none. Raises `Unavailable`, after which it is to be repeated."""
    resource = await cluster.pool(*key)
    if resource is None or "deletionTimestamp" in resource["metadata"]:
        return Outcome.GONE
    try:
        pool = read(resource)
        deployment = await _applied(cluster, pool, image)
    except InvalidSpec as error:
        await _tell(cluster, resource, refused(error))
        return Outcome.SETTLED
    except Refused as error:
        await _tell(cluster, resource, refused(error))
        return Outcome.UNSETTLED
    lacks = await _lacks(cluster, pool)
    await _tell(cluster, resource, seen(pool, deployment, lacks), **counts(pool, deployment))
    return Outcome.UNSETTLED if lacks else Outcome.SETTLED


async def _applied(cluster: Cluster, pool: Pool, image: str) -> Resource:
    """The Deployment as it is now, with its status."""
    key = await cluster.keep(desired.signing_key(pool, secrets.token_urlsafe(32)))
    wanted = desired.objects(pool, image, key["metadata"]["uid"])
    applied = [await cluster.apply(each) for each in wanted]
    return applied[-1]


async def _lacks(cluster: Cluster, pool: Pool) -> str | None:
    """What is wrong with the Secrets that pods wait for."""
    for name, keys in desired.secrets_read(pool):
        if lacks := await cluster.lacks(pool.namespace, name, keys):
            return lacks
    return None


async def _tell(cluster: Cluster, resource: Resource, verdicts: Verdicts, **others: object) -> None:
    now = status(resource, verdicts, datetime.now(UTC), **others)
    if now != resource.get("status"):
        meta, ready = resource["metadata"], verdicts[Condition.READY]
        logger.info("%s/%s: %s %s", meta["namespace"], meta["name"], ready.reason, ready.message)
    await cluster.tell(resource, now)
