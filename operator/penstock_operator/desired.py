"""What should be there for a pool: the objects, as data. What needs a restart when it changes is in the pods'
template; sizing and heartbeat are in a file that the data service reads again, and restart nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from penstock_operator.spec import GROUP, KIND, VERSION, Pool, Probe, Probes, ReadinessProbe, Tls

Object = dict[str, Any]

MANAGER = "penstock-operator"
"""Of fields (server-side apply), and in the label that all of our objects have."""

PORT = 8080
ANY = "0.0.0.0"  # noqa: S104 - in a pod, that is the pod's own
FOLDER, FILE = "/etc/penstock", "pool.json"
KEYS, KEY = "/var/run/secrets/penstock.dev", "key"
"""The folder of the key that tokens are signed with, and its file there."""
CREDENTIALS = ("username", "password")
AUTHORITIES, AUTHORITY = "/etc/penstock-ca", "ca.crt"
"""The same of the CA that the database's certificate is verified with."""
USER = 65532
"""Whom the container runs as, whatever its image says."""


def objects(pool: Pool, image: str, key: str) -> list[Object]:
    """In the order in which they are applied, the Deployment last. `image` is for pools that name none; `key`
    is the uid of the signing key's Secret, so that another key is one for all pods."""
    return [config_map(pool), service(pool), deployment(pool, image, key)]


def signing_key(pool: Pool, key: str) -> Object:
    """The Secret with which tokens for the data service are signed. It is made once: another key would be the
    end of all tokens. Who may read it may sign."""
    secret = _object("v1", "Secret", pool, _key_secret(pool))
    return secret | {"type": "Opaque", "stringData": {KEY: key}}


def secrets_read(pool: Pool) -> Iterator[tuple[str, Sequence[str]]]:
    """Those that pods cannot start without, and the keys in them."""
    yield _key_secret(pool), [KEY]
    database = pool.spec.database
    yield database.credentials_secret_ref.name, CREDENTIALS
    if database.ca_secret_ref is not None:
        yield database.ca_secret_ref.name, [AUTHORITY]


def _key_secret(pool: Pool) -> str:
    return f"{pool.name}-tokens"


def selector(pool: Pool) -> dict[str, str]:
    """By which the pods of a pool are found. It never changes: a Deployment's cannot."""
    return {"app.kubernetes.io/name": "penstock-data", "app.kubernetes.io/instance": pool.name}


def config_map(pool: Pool) -> Object:
    return _object("v1", "ConfigMap", pool) | {"data": {FILE: json.dumps(_settings(pool), indent=2)}}


def service(pool: Pool) -> Object:
    port = {"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"}
    return _object("v1", "Service", pool) | {"spec": {"selector": selector(pool), "ports": [port]}}


def deployment(pool: Pool, image: str, key: str) -> Object:
    meta = {"labels": _labels(pool), "annotations": {f"{GROUP}/key": key}}
    spec = {
        "replicas": pool.spec.replicas,
        "selector": {"matchLabels": selector(pool)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": meta, "spec": _pod(pool, image)},
    }
    return _object("apps/v1", "Deployment", pool) | {"spec": spec}


def _object(version: str, kind: str, pool: Pool, name: str | None = None) -> Object:
    """Named as the pool, if nothing else is said, and gone with it."""
    owner = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": pool.name,
        "uid": pool.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    meta = {"name": name or pool.name, "namespace": pool.namespace, "labels": _labels(pool)}
    return {"apiVersion": version, "kind": kind, "metadata": meta | {"ownerReferences": [owner]}}


def _labels(pool: Pool) -> dict[str, str]:
    ours = {"component": "data-service", "part-of": "penstock", "managed-by": MANAGER}
    return selector(pool) | {f"app.kubernetes.io/{name}": value for name, value in ours.items()}


def _settings(pool: Pool) -> Object:
    """The file, by the names of the data service's settings; by the generation a new one is known."""
    sizing = pool.spec.pool
    return {
        "generation": pool.generation,
        "name": pool.name,
        "min": sizing.min,
        "max": sizing.max,
        "checkout_timeout": sizing.checkout_timeout,
        "heartbeat": pool.spec.heartbeat.interval,
    }


def _pod(pool: Pool, image: str) -> Object:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(pool, image)],
        "volumes": [{"name": name, **source} for name, (_, source) in _volumes(pool).items()],
    }


def _volumes(pool: Pool) -> dict[str, tuple[str, Object]]:
    """Where each is mounted, and what it is."""
    volumes: dict[str, tuple[str, Object]] = {
        "config": (FOLDER, {"configMap": {"name": pool.name}}),
        "key": (KEYS, {"secret": {"secretName": _key_secret(pool)}}),
    }
    if pool.spec.database.ca_secret_ref is not None:
        volumes["ca"] = (AUTHORITIES, {"secret": {"secretName": pool.spec.database.ca_secret_ref.name}})
    return volumes


def _container(pool: Pool, image: str) -> Object:
    return {
        "name": "data",
        "image": pool.spec.image or image,
        "env": _environment(pool),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": dict(pool.spec.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": name, "mountPath": path, "readOnly": True} for name, (path, _) in _volumes(pool).items()
        ],
        **_probes(pool.spec.probes),
    }


def _environment(pool: Pool) -> list[Object]:
    database = pool.spec.database
    secret = database.credentials_secret_ref.name
    tls = "false" if database.tls is Tls.DISABLED else "true"
    url = f"mysql://{database.host}:{database.port}/{quote(database.name, safe='')}?tls={tls}"
    ca = [{"name": "PENSTOCK_DATA_CA_FILE", "value": f"{AUTHORITIES}/{AUTHORITY}"}]
    return [
        {"name": "PENSTOCK_DATA_ADDRESS", "value": ANY},
        {"name": "PENSTOCK_DATA_PORT", "value": str(PORT)},
        {"name": "PENSTOCK_DATA_URL", "value": url},
        *(
            {"name": f"PENSTOCK_DATA_{key.upper()}", "valueFrom": _from_secret(secret, key)}
            for key in CREDENTIALS
        ),
        {"name": "PENSTOCK_DATA_KEY_FILE", "value": f"{KEYS}/{KEY}"},
        {"name": "PENSTOCK_DATA_CONFIG", "value": f"{FOLDER}/{FILE}"},
        *(ca if database.ca_secret_ref else []),
    ]


def _from_secret(name: str, key: str) -> Mapping[str, Any]:
    return {"secretKeyRef": {"name": name, "key": key}}


def _probes(probes: Probes) -> Object:
    return {
        "livenessProbe": _probe(probes.liveness, "/livez"),
        "readinessProbe": _probe(probes.readiness, "/readyz"),
        "startupProbe": _probe(probes.startup, "/startupz"),
    }


def _probe(probe: Probe, path: str) -> Object:
    return {
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "initialDelaySeconds": probe.initial_delay_seconds,
        "periodSeconds": probe.period_seconds,
        "timeoutSeconds": probe.timeout_seconds,
        "failureThreshold": probe.failure_threshold,
        "successThreshold": probe.success_threshold if isinstance(probe, ReadinessProbe) else 1,
    }
