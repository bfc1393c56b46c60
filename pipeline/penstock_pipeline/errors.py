"""Every error of the pipeline, typed by what follows from it.

PenstockError
├── Invalid            the input is wrong: never retried, the text says what, where and what to do
│   ├── InvalidConfig      penstock.yaml or Procfile, with file and line
│   ├── InvalidPush        a push that is refused
│   └── InvalidTree        a commit whose files cannot be laid out safely
├── Forbidden          who asks may not
├── NotFound           what is asked for is not there
├── Conflict           it cannot be done in this state of things
├── Unsealable         a secret at rest cannot be opened: its key is gone, or it was damaged
├── PastCommit         a commit that was live before: going there would be going backwards
├── AwaitingApproval   a person has to let the run through: it stands aside until then
├── StageFailed        the user's code or release is red: the run ends, nothing is retried
│   └── Unhealthy          a candidate did not become healthy
└── Unavailable        a part is out of reach just now: worth a retry
    ├── Untimely
    ├── MachineUnavailable
    ├── StoreUnavailable
    ├── RuntimeUnavailable
    ├── OriginUnavailable
    ├── EdgeUnavailable
    ├── RepositoryUnavailable
    └── SubscriberUnavailable
"""

from __future__ import annotations

from collections.abc import Sequence


class PenstockError(Exception):
    """Base of all; its text is meant for the person who pushed or typed."""

    def __str__(self) -> str:
        """Text that can be stored and sent, whatever names it tells: bytes that are no UTF-8 as `\\udcff`."""
        return super().__str__().encode(errors="backslashreplace").decode()


class Invalid(PenstockError):
    """The input is wrong and stays wrong: never retried."""


class InvalidConfig(Invalid):
    """A file of the app says something that cannot be; names file and line. `also` is what else is wrong."""

    def __init__(
        self, message: str, *, file: str, line: int | None = None, also: Sequence[InvalidConfig] = ()
    ) -> None:
        where = file if line is None else f"{file}:{line}"
        super().__init__("\n".join([f"{where}: {message}", *map(str, also)]))
        self.message = message
        self.file = file
        self.line = line
        self.also = tuple(also)


class InvalidPush(Invalid):
    """A push that is refused; the branch stays where it is."""


class InvalidTree(Invalid):
    """A commit holds files that cannot be laid out safely (links out of the tree, odd names)."""


class Forbidden(PenstockError):
    """Who asks may not do this: a missing, wrong or expired token or signature."""


class NotFound(PenstockError):
    """No such app, run or release."""


class Conflict(PenstockError):
    """It cannot be done in this state of things; the text says which state that is."""


class Unsealable(PenstockError):
    """A secret at rest cannot be sealed or opened with the key file as it is; stays so until it is mended."""


class PastCommit(PenstockError):
    """The commit is part of what was live already; the run ends without doing anything."""


class AwaitingApproval(PenstockError):
    """A person has to let the run through; it gives way to others until then."""


class StageFailed(PenstockError):
    """The user's code or release is red. `tail` holds the last output lines that explain it."""

    def __init__(self, message: str, *, tail: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.tail = tail


class Unhealthy(StageFailed):
    """A candidate did not become healthy in time, or ended; `tail` holds its last log lines."""


class Unavailable(PenstockError):
    """A part is out of reach just now; the same call may go through later."""


class Untimely(Unavailable):
    """A message that is proved, but by a clock that is not the one here: signed anew, it may go through."""


class MachineUnavailable(Unavailable):
    """This machine lacks something just now: room on the disk, open files, processes."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"this machine: {error.strerror or repr(error)}")


class StoreUnavailable(Unavailable):
    """The store could not commit (disk full, file gone, locked by another process)."""


class RuntimeUnavailable(Unavailable):
    """The runtime or its router does not answer."""


class OriginUnavailable(Unavailable):
    """The origin does not take or does not yet serve the files."""


class EdgeUnavailable(Unavailable):
    """An edge does not answer, or does not serve the release yet."""


class RepositoryUnavailable(Unavailable):
    """The registered repository cannot be fetched."""


class SubscriberUnavailable(Unavailable):
    """A subscriber did not take what it was sent. `wait`: seconds that it asks to be left alone for; `gone`:
    it wants nothing more, ever."""

    def __init__(self, message: str, *, wait: float = 0.0, gone: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.gone = gone
