"""What the slots of a job have merged so far; `_routines.merge_strategies` says how each of them merges."""

from __future__ import annotations

from routilux_core._engine.plan import Inlet
from routilux_core._engine.run import Run
from routilux_core._routines.signature import Payload


def merged(inlet: Inlet, payload: Payload, run: Run, number: int, again: bool) -> Payload:
    """Merge what arrived into what the slot has in this job, and return what the handler sees.

    The routine's permit guards it. `again`: the activation may run again, and then sees what was merged the first time.
    """
    old = run.merged.get(inlet, {})
    if number not in run.retries.merged:
        assert inlet.merge is not None
        run.merged[inlet] = old = inlet.merge(old, payload)
        if again or run.decide is not None:
            run.retries.merged.add(number)
    return inlet.snapshot(old)
