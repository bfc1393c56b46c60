"""`penstock up` by a clock that is wrong: `shifted.py FILE up …`, where FILE holds by how many seconds."""

from __future__ import annotations

import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path

import jwt.api_jwt

from penstock_pipeline.cli import main
from penstock_pipeline.dashboard import pages
from penstock_pipeline.store import rows


def shift(file: Path) -> None:
    right = time.time

    def wrong() -> float:
        return right() + float(file.read_text())

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(wrong(), tz)

    time.time = wrong
    for module in (rows, pages, jwt.api_jwt):
        module.datetime = Wrong  # type: ignore[attr-defined]


if __name__ == "__main__":
    shift(Path(sys.argv.pop(1)))
    main()
