"""When a pool is looked at: on every event of it or of an object that belongs to it, and as each is listed
when the operator starts. Events alone: kopf writes nothing into the resources, no finalizer holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kopf

from penstock_operator.agenda import Agenda
from penstock_operator.desired import MANAGER
from penstock_operator.spec import GROUP, KIND, PLURAL, VERSION

_POOLS = (GROUP, VERSION, PLURAL)
_CHILDREN = (("", "v1", "configmaps"), ("", "v1", "services"), ("apps", "v1", "deployments"))


def registry(agenda: Agenda) -> kopf.OperatorRegistry:
    """What kopf calls. Nothing of it is global, so that a process may hold several."""
    calls = kopf.OperatorRegistry()
    kopf.on.login(registry=calls)(kopf.login_via_client)
    kopf.on.event(*_POOLS, registry=calls, id="pool")(_pool_changed(agenda))
    for child in _CHILDREN:
        kopf.on.event(*child, registry=calls, id=child[-1])(_child_changed(agenda))
    kopf.on.cleanup(registry=calls, id="close")(_closing(agenda))
    return calls


def settings(*, everywhere: bool) -> kopf.OperatorSettings:
    """How kopf is to behave. Told its namespaces, it asks for nothing outside of them; else it notices a CRD
    that comes after it."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    chosen.scanning.disabled = not everywhere
    for child in _CHILDREN:
        chosen.watching.label_selectors[child] = f"app.kubernetes.io/managed-by={MANAGER}"
    return chosen


def _pool_changed(agenda: Agenda) -> Any:
    async def changed(namespace: str, name: str, **_: Any) -> None:
        agenda.ring((namespace, name))

    return changed


def _child_changed(agenda: Agenda) -> Any:
    async def changed(namespace: str, meta: Mapping[str, Any], **_: Any) -> None:
        for owner in meta.get("ownerReferences", []):
            if owner["kind"] == KIND and owner["apiVersion"].startswith(f"{GROUP}/"):
                agenda.ring((namespace, owner["name"]))

    return changed


def _closing(agenda: Agenda) -> Any:
    async def close(**_: Any) -> None:
        await agenda.close()

    return close
