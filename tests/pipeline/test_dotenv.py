"""A .env file: what is taken, what is refused, with file and line."""

from __future__ import annotations

import pytest

from penstock_pipeline.cli import dotenv
from penstock_pipeline.errors import InvalidConfig


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("\n  # nothing\n\n", {}),
        ("A=b", {"A": "b"}),
        ("A=b\r\nC=d\r\n", {"A": "b", "C": "d"}),
        ("  export A = b c  # said\n", {"A": "b c"}),
        ("A=b#c", {"A": "b#c"}),
        ("A=\nB=''\nC=# nothing", {"A": "", "B": "", "C": ""}),
        ("A=$HOME ${B} `c`", {"A": "$HOME ${B} `c`"}),
        ("URL=mysql://a:b@c/d?e=f", {"URL": "mysql://a:b@c/d?e=f"}),
        ("A='$b \\n \"c\"' # said", {"A": '$b \\n "c"'}),
        ('A="b\\n\\t\\"c\\" \\\\ \\$d"', {"A": 'b\n\t"c" \\ $d'}),
        ('KEY="-----BEGIN\nabc\n-----END"\nB=c', {"KEY": "-----BEGIN\nabc\n-----END", "B": "c"}),
        ("KEY='one\ntwo'", {"KEY": "one\ntwo"}),
        ("a.b-c=d", {"a.b-c": "d"}),
    ],
)
def test_what_is_taken(text: str, values: dict[str, str]) -> None:
    assert dotenv.read(text, file=".env") == values


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=b\nhunter2", ".env:2: must read NAME=VALUE"),
        ("=b", ".env:1: must read NAME=VALUE"),
        ("A B=c", ".env:1: must read NAME=VALUE"),
        ("A='hunter2", ".env:1: the quotes of A do not end, or something follows them"),
        ("B='one\ntwo'\n\nA=\"b\" hunter2", ".env:4: the quotes of A do not end, or something follows them"),
        ("A= 'hunter2\nB=c", ".env:1: the quotes of A do not end, or something follows them"),
        ("A=b\nA=c", ".env:2: A is given twice"),
    ],
)
def test_what_is_refused_names_file_and_line_and_no_value(text: str, says: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        dotenv.read(text, file=".env")
    assert str(refused.value) == says
