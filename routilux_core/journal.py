"""Journal: where a flow keeps on disk what is left of its jobs, so that another process can go on with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Key(NamedTuple):
    """What tells one row from all others. `owner` is a job or a flow, or nobody; `kind` says what the row is."""

    owner: str
    kind: str
    number: int = 0
    name: str = ""


KEPT = ("job", "record", "flow", "document", "shared")  # the kinds of rows that outlive the end of a job


class Mark(NamedTuple):
    """A call that begins: a job, as a checksum of its id, the number of the activation, and which attempt it is."""

    job: int
    number: int
    attempt: int


class InDoubt(NamedTuple):
    """A call that ran when its process died: it may have done what it does outside, once, in part, or not at all.

    `key` is what `self.activation.key` was in it, and is when it is made again.
    """

    routine_id: str
    slot: str
    key: str
    payload_keys: tuple[str, ...]


class Journal(ABC):
    """Rows of text on disk, changed in transactions. A flow asks one thing at a time, from whatever thread.

    Subclass it to keep journals elsewhere: `routilux_core.testing.JournalSuite` says whether it is right. Whatever it
    raises stops the jobs that it was for, as a `JournalError`: it is not asked again before it was opened again.
    """

    name = "journal"  # the id of a flow that has no other
    where = "a journal"  # for messages

    @abstractmethod
    def open(self, durable: bool) -> None:
        """Begin: nobody else may have the journal open until it is closed.

        With `durable` what `commit` has written outlives a power failure when it returns, else it may be lost then with
        all that came later, and with nothing before it. Raises a `JournalError` that says who has it, or what is wrong.
        """

    @abstractmethod
    def commit(self, rows: Mapping[Key, str | None], ended: Sequence[str] = ()) -> None:
        """Write rows in the place of those that have the same keys, and delete those that are None: all, or nothing.

        Of the owners in `ended` all rows are deleted but those of the kinds in `KEPT`: before or behind the others,
        since the others have none of them.
        """

    @abstractmethod
    def read(self, owner: str | None = None, kind: str | None = None) -> Iterable[tuple[Key, str]]:
        """Return the rows of an owner, of a kind, or all, in the order of their keys. What is damaged is an error."""

    @abstractmethod
    def close(self, in_doubt: bool = False) -> None:
        """End: others may open it. Called more than once it does nothing more.

        Where no call is `in_doubt`, since all that were marked have ended, whoever opens it next is given no marks.
        """

    def mark(self, place: int, mark: Mark) -> None:  # noqa: B027 - who keeps no marks leaves it as it is
        """Note, in a place where an older one may be overwritten, that a call begins. In the thread of the call.

        It has to outlive the process, not a power failure; and it has to be quick. Marks that `marks` returns stay,
        until the journal is closed.
        """

    def marks(self) -> Sequence[Mark] | None:
        """Return the marks that the last process has left; None where they are not kept, or may not be whole.

        Asked for once, after `open`, before anything is marked.
        """
        return None


def key_of(job_id: str, number: int) -> str:
    """Return what names an activation, at each of its attempts, and after each crash."""
    return f"{job_id}:{number}"


class RunningActivation(NamedTuple):
    """The call that a handler is: its job, its number there, and which attempt it is, from 1."""

    job_id: str
    number: int
    attempt: int

    @property
    def key(self) -> str:
        """What names the call at each attempt, and after each crash: for an `Idempotency-Key` header, say."""
        return key_of(self.job_id, self.number)
