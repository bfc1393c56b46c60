"""What the pages' addresses say."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from ..errors import NotFound


def number(text: str, missing: str) -> int:
    """Raises `NotFound`, saying `missing`, for what cannot be a number of ours."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise NotFound(missing)
    return int(text)


async def _run_id(run: str) -> int:
    return number(run, f"no run {run}")


RunId = Annotated[int, Depends(_run_id)]
