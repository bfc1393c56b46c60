"""The only place that talks to the apiserver. What is there is read, what should be there is applied
(server-side: fields we do not name stay whose they are), and what is to be told is written to the status."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from penstock_operator.desired import MANAGER
from penstock_operator.errors import Refused, Taken, Unavailable
from penstock_operator.spec import GROUP, KIND, PLURAL, VERSION

Resource = Mapping[str, Any]

WITHIN = 10.0
"""Seconds for one request."""

_PLURALS = {
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "Service": "services",
    "Deployment": "deployments",
    KIND: PLURAL,
}


class Cluster:
    """Over a client that is configured; `connected` makes one."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def pool(self, namespace: str, name: str) -> Resource | None:
        """None: there is none."""
        return await self._read(_path(f"{GROUP}/{VERSION}", KIND, namespace, name))

    async def lacks(self, namespace: str, name: str, keys: Sequence[str]) -> str | None:
        """What is wrong with a Secret that is to have these keys, for people. None: nothing."""
        secret = await self._read(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        if secret is None:
            return f"the Secret {name} is missing"
        missing = [key for key in keys if key not in (secret.get("data") or {})]
        return f"the Secret {name} has no {' and no '.join(missing)}" if missing else None

    async def apply(self, wanted: Resource) -> Resource:
        """Makes an object as it is wanted, unless one of that name is somebody else's. Raises `Taken`."""
        await self._there(wanted)
        return await self._apply(_path_of(wanted), wanted)

    async def keep(self, wanted: Resource) -> Resource:
        """Makes an object unless it is there, whatever is in it. Raises `Taken`."""
        if (there := await self._there(wanted)) is not None:
            return there
        folder = _path_of(wanted).rpartition("/")[0]
        whose, content = [("fieldManager", MANAGER)], {"Content-Type": "application/json"}
        return _checked(*await self._ask("POST", folder, whose, content, wanted))

    async def _there(self, wanted: Resource) -> Resource | None:
        there = await self._read(_path_of(wanted))
        if there is not None and _owner(there) != _owner(wanted):
            kind, name = wanted["kind"], wanted["metadata"]["name"]
            raise Taken(f"a {kind} {name} is there already and does not belong to this pool")
        return there

    async def tell(self, resource: Resource, status: Resource) -> None:
        """Writes a pool's status, if it is another one; a pool that went meanwhile needs none."""
        if status == resource.get("status"):
            return
        meta = {name: resource["metadata"][name] for name in ("name", "namespace")}
        told = {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": meta, "status": status}
        uid = {"uid": resource["metadata"]["uid"]}
        await self._apply(f"{_path_of(told)}/status", told | {"metadata": meta | uid})

    async def _read(self, path: str) -> Resource | None:
        status, body = await self._ask("GET", path)
        return None if status == 404 else _checked(status, body)

    async def _apply(self, path: str, wanted: Resource) -> Resource:
        content = {"Content-Type": "application/apply-patch+yaml"}
        whose = [("fieldManager", MANAGER), ("force", "true")]
        return _checked(*await self._ask("PATCH", path, whose, content, wanted))

    async def _ask(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        headers: dict[str, str] | None = None,
        body: Resource | None = None,
    ) -> tuple[int, Resource]:
        """One request: the answer's status and what it holds. Raises `Unavailable`."""
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=query or [],
                header_params={"Accept": "application/json", **(headers or {})},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*request, _request_timeout=WITHIN)
            return answer.status, json.loads(await answer.read())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"the apiserver does not answer {method} {path}: {error!r}") from error


@asynccontextmanager
async def connected() -> AsyncIterator[Cluster]:
    """To the cluster that we run in, else to the one of the kubeconfig. Raises `Unavailable`."""
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        await _from_kubeconfig(configuration)
    async with ApiClient(configuration) as client:
        yield Cluster(client)


async def _from_kubeconfig(configuration: Configuration) -> None:
    try:
        await load_kube_config(client_configuration=configuration, persist_config=False)
    except ConfigException as error:
        raise Unavailable(f"there is no cluster around us, and no kubeconfig: {error}") from error


def _path_of(wanted: Resource) -> str:
    meta = wanted["metadata"]
    return _path(wanted["apiVersion"], wanted["kind"], meta["namespace"], meta["name"])


def _path(version: str, kind: str, namespace: str, name: str) -> str:
    root = "/api/v1" if version == "v1" else f"/apis/{version}"
    return f"{root}/namespaces/{namespace}/{_PLURALS[kind]}/{name}"


def _owner(wanted: Resource) -> str | None:
    """The uid of the object's controller."""
    owners = wanted["metadata"].get("ownerReferences", [])
    return next((owner["uid"] for owner in owners if owner.get("controller")), None)


def _checked(status: int, body: Resource) -> Resource:
    """Raises `Unavailable` for what passes, `Refused` for what does not. 404: it went, or its namespace did;
    409: another one of that name has come. The next look will see."""
    if status < 400:
        return body
    told = f"{status} {body.get('reason', '')}: {body.get('message', '')}"
    raise Unavailable(told) if status in (401, 404, 408, 409, 429) or status >= 500 else Refused(told)
