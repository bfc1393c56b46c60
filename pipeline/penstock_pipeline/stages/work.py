"""What a stage is given and what it gives back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from penstock_pool.compute import ComputePool

from .. import plan
from ..cdn import Edge, Origin
from ..config import AppConfig
from ..images import ImageStore
from ..mask import Mask
from ..model import App, Release, Run, RunKind, StageName
from ..repositories import Repositories
from ..runtimes import Candidate, Runtime
from ..settings import Settings
from ..store import SqliteStore
from ..store.logs import Logs
from ..variables import Variables
from ..vault import Vault


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that reaches the world, as the composition root has put it together."""

    settings: Settings
    store: SqliteStore
    vault: Vault
    logs: Logs
    repositories: Repositories
    runtime: Runtime
    images: ImageStore
    packing: ComputePool
    """For what keeps a processor busy: packing and hashing a tree."""
    origin: Origin
    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a stage that went well: what it says to people, what later stages need of it, and what else
    becomes true in the very commit that records it."""

    says: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    also: Callable[[Connection], None] | None = None


@dataclass(frozen=True, slots=True)
class Artefact:
    """What is released: the digests of image and static manifest, and the app's configuration."""

    image: str | None
    manifest: str | None
    config: AppConfig


@dataclass(frozen=True)
class Work:
    """One run on its way: its facts, and the results of the stages that are done."""

    run: Run
    app: App
    parts: Parts
    results: dict[StageName, Mapping[str, Any]]
    live: Release | None
    """What was live when the run began to move."""
    target: Release | None
    """What is deployed again, or refreshed, instead of something new."""
    variables: Variables = field(default_factory=dict)
    """What the app finds in its environment; some of them must not be told."""

    @property
    def folder(self) -> Path:
        """Everything the run keeps on the way; gone when it ends."""
        return self.parts.settings.state / "work" / str(self.run.id)

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @cached_property
    def mask(self) -> Mask:
        """Hides the secret variables wherever the app, its build or its tests print them."""
        return Mask(variable.value for variable in self.variables.values() if variable.secret)

    @property
    def environment(self) -> dict[str, str]:
        return {name: variable.value for name, variable in self.variables.items()}

    @property
    def todo(self) -> StageName | None:
        """The first stage that is not done; None: all are. Whether a push waits for approval is known once
        it is checked out."""
        asks = self.run.kind is RunKind.PUSH and StageName.CHECKOUT in self.results and self.config.approve
        stages = plan.stages(self.run.kind, approve=asks)
        return next((stage for stage in stages if stage not in self.results), None)

    @property
    def is_live(self) -> bool:
        """Its release has taken the traffic."""
        return StageName.DEPLOY in self.results

    @cached_property
    def config(self) -> AppConfig:
        """As the checkout read it, or as the release that is rolled back to kept it."""
        kept = self.results[StageName.CHECKOUT]["config"] if self.target is None else self.target.config
        return AppConfig.model_validate(kept)

    @property
    def label(self) -> str:
        """The release the run is about, once it has a version."""
        deployed = self.results.get(StageName.DEPLOY)
        if deployed is not None:
            return str(deployed["label"])
        assert self.target is not None
        return self.target.label

    @property
    def static_root(self) -> Path | None:
        return None if self.config.static is None else self.tree / self.config.static.dir

    @cached_property
    def artefact(self) -> Artefact:
        if self.target is not None:
            return Artefact(self.target.image, self.target.manifest, self.config)
        built = self.results[StageName.BUILD]
        return Artefact(built["image"], built["manifest"], self.config)

    @cached_property
    def candidate(self) -> Candidate:
        return Candidate(
            app=self.app.name,
            name=self.app.candidate(self.run.id),
            image=self.artefact.image,
            commit=self.run.commit,
            processes=self.config.processes,
            health=self.config.health,
            env=self.environment,
        )


Stage = Callable[[Work], Awaitable[Outcome]]
