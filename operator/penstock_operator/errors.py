"""Everything the operator can raise, typed by what helps.

OperatorError
├── InvalidSettings   (also a ValueError) never retry: the operator was started with what cannot be meant
├── InvalidSpec       never retry: an edit of the resource helps, and is told to us
├── Refused           the cluster does not take an object: told in the resource, tried again ever later
│   └── Taken         for an object of that name belongs to somebody else
└── Unavailable       the apiserver does not answer, or not now: tried again ever later
"""

from __future__ import annotations


class OperatorError(Exception):
    """The root of the operator's errors."""


class InvalidSettings(OperatorError, ValueError):
    """A setting that cannot be meant; the text names it, what it was, and what is allowed."""


class InvalidSpec(OperatorError):
    """A field of a resource that cannot be meant; the text names it, what it was, and what is allowed."""


class Refused(OperatorError):
    """The cluster does not take an object: a quota, a policy, a permission that is missing."""


class Taken(Refused):
    """An object of the name that is needed is there, and is not of this pool: it is left as it is."""


class Unavailable(OperatorError):
    """The apiserver cannot be reached, is overloaded or is starting."""
