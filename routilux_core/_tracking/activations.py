"""What plugins are told, and asked, of a call that is about to be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from types import MappingProxyType
from typing import Any

from routilux_core._engine.plan import CAUSE, CAUSES, INLET, NUMBER, PAYLOAD, POSTED, Item, arrived
from routilux_core._engine.retries import Retries
from routilux_core.error_handling import Decision
from routilux_core.hookspecs import Activation


def activation_of(job_id: str, item: Item, attempt: int, data: Mapping[str, Any], worker: int) -> Activation:
    """Return an activation as plugins see it, whose handler gets `data`."""
    inlet = item[INLET]
    return Activation(
        job_id=job_id,
        id=item[NUMBER],
        cause=item[CAUSE] or None,
        causes=tuple(item[PAYLOAD].get(CAUSES, ())),
        routine_id=inlet.node.routine_id,
        slot=inlet.name,
        attempt=attempt,
        worker=worker,
        posted=item[POSTED],
        started=perf_counter(),
        data=MappingProxyType(dict(data)),
    )


class Admission:
    """Asks the plugins about the calls of one job, each before it is made. Called by workers, without the lock."""

    __slots__ = ("_ask", "_job_id", "_retries")

    def __init__(self, ask: Callable[[Activation], Decision | None], job_id: str, retries: Retries) -> None:
        self._ask, self._job_id, self._retries = ask, job_id, retries

    def __call__(self, item: Item, worker: int) -> Decision | None:
        """Return None for a call that is to be made, else what to do instead. `worker` is 0 where it is only sent."""
        attempt = self._retries.attempt(item[NUMBER])
        return self._ask(activation_of(self._job_id, item, attempt, arrived(item[PAYLOAD]), worker))
