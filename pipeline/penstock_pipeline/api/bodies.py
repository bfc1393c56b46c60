"""What requests bring, and what each may be."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from ..model import StageName
from ..store.subscriptions import WEBHOOK
from ..tokens import DAY, Scope
from ..variables import LONGEST

LARGEST = 2**63 - 1
"""The highest number the store can hold."""

Number = Annotated[int, Path(ge=1, le=LARGEST)]
Before = Annotated[int | None, Query(ge=1, le=LARGEST)]
Seen = Annotated[int, Query(ge=0, le=LARGEST)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", str_max_length=4096)


class NewApp(_Body):
    """Body of `POST /apps`. With a `repository` and no `webhook_secret`, one is made up."""

    name: str
    branch: str = "main"
    repository: str | None = None
    webhook_secret: str | None = None


class Rollback(_Body):
    """Body of `POST /apps/{name}/rollback`. `version` None: the release that was live before this one."""

    version: int | None = Field(default=None, ge=1, le=LARGEST)


class Retry(_Body):
    """Body of `POST /runs/{id}/retry`. `stage` None: the one that the run has not passed."""

    stage: StageName | None = None


class NewVariable(_Body):
    """What a variable becomes. A secret one is never answered again."""

    model_config = ConfigDict(extra="forbid", str_max_length=LONGEST)

    value: str
    secret: bool = False


class Changes(_Body):
    """Body of `POST /apps/{name}/variables`: by name what each becomes; null removes it."""

    model_config = ConfigDict(extra="forbid", str_max_length=LONGEST)

    variables: dict[str, NewVariable | None] = Field(min_length=1)


class NewSubscription(_Body):
    """Body of `POST /subscriptions`. `kind` is `webhook`, for which `url` is told of every event (of an app,
    or of all), or a forge, for which `app` and `token` are needed; then `url` is that of the forge's API."""

    kind: str = WEBHOOK
    url: str | None = None
    app: str | None = None
    token: str | None = Field(default=None, repr=False)
    repository: str | None = None


class Again(_Body):
    """Body of `POST /subscriptions/{id}/retry`. `event` None: every dead letter."""

    event: int | None = Field(default=None, ge=1, le=LARGEST)


class NewToken(_Body):
    """Body of `POST /tokens`. `name` is who runs are told to be by; `app` None: every app."""

    name: str = Field(pattern=r"^[\w.@+ -]{1,100}$")
    scope: Scope
    app: str | None = None
    seconds: int = Field(default=365 * DAY, ge=1, le=3650 * DAY)
