"""Approve: where the app asks for it, a person lets a push through before it starts."""

from __future__ import annotations

from typing import NoReturn

from ..errors import AwaitingApproval
from .work import Work


async def approve(work: Work) -> NoReturn:
    """Raises `AwaitingApproval`. There is nothing else to do: once somebody has approved, the stage is done
    (`queue.approve`) and is not entered again."""
    raise AwaitingApproval(f"penstock approve {work.run.id}")
