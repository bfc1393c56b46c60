"""Many rows of arguments become few statements: one round trip for a thousand rows, not a thousand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from penstock_pool.driver import Arguments

Row = Sequence[object] | dict[str, object]

LENGTH = 256 * 1024
"""Characters of one statement, about; the smallest max_allowed_packet in use is 1 MB."""

_VALUE = r"(?:%s|%\(\w+\)s)"
_INSERT = re.compile(
    rf"(\s*(?:insert|replace)\b.*?\bvalues?\s*)(\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\))"
    r"(\s*|\s*on\s+duplicate\s+key\s+update\b.*)\Z",
    re.IGNORECASE | re.DOTALL,
)


def batches(
    sql: str, rows: Iterable[Row], write: Callable[[str, Arguments], str]
) -> Iterator[tuple[str, Arguments]]:
    """The statements to execute. `write` puts arguments into text, escaped."""
    insert = _INSERT.match(sql)
    if insert is None or "%s" in (around := insert[1] + insert[3]) or "%(" in around:
        yield from ((sql, row) for row in rows)
        return
    before, values, after = write(insert[1], ()), insert[2], write(insert[3], ())
    for group in _groups(write(values, row) for row in rows):
        yield f"{before}{','.join(group)}{after}", None


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    length = 0
    for text in texts:
        if group and length + len(text) > LENGTH:
            yield group
            group, length = [], 0
        group.append(text)
        length += len(text) + 1
    if group:
        yield group
