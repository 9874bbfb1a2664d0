"""Messages on their way through Dask: pieces that its own serialization carries beside its pickles."""

from __future__ import annotations

from collections.abc import Sequence
from pickle import PickleBuffer
from typing import Any

from distributed.protocol import dask_deserialize, dask_serialize

from routilux_core.strategy import Piece

WITH_BUFFERS = 5  # the pickle protocol that has them


class Cargo:
    """The pieces of one message. Large ones are not copied where Dask reads or writes it, at each of its stations."""

    __slots__ = ("pieces",)

    def __init__(self, *pieces: Piece) -> None:
        self.pieces: Sequence[Piece] = pieces

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Cargo, tuple(map(PickleBuffer if protocol >= WITH_BUFFERS else bytearray, self.pieces))

    def weight(self) -> int:
        """Return how many bytes that is."""
        return sum(memoryview(each).nbytes for each in self.pieces)


@dask_serialize.register(Cargo)  # type: ignore[untyped-decorator]
def _written(cargo: Cargo) -> tuple[dict[str, Any], list[Piece]]:
    return {"writeable": tuple(not memoryview(each).readonly for each in cargo.pieces)}, list(cargo.pieces)


@dask_deserialize.register(Cargo)  # type: ignore[untyped-decorator]
def _read(header: dict[str, Any], frames: list[Piece]) -> Cargo:
    return Cargo(*frames)
