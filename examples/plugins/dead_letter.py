"""A tracker that keeps what failed for good in a file, and replays it into a flow.

letters = DeadLetters("dead.jsonl")
flow = Flow(plugins=[letters])
...
letters.replay(flow)  # when what was broken is mended
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from routilux_core import Failure, Flow, JobState, hookimpl


class DeadLetters:
    """One line of JSON for each call that failed and is not tried again. A payload that is no JSON is kept as text."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self._file = Path(file)
        self._lock = threading.Lock()

    @hookimpl
    def routilux_failure_decided(self, failure: Failure, payload: Mapping[str, Any]) -> None:
        if failure.decision == "retry":
            return
        letter = {
            "job": failure.job_id,
            "routine": failure.routine_id,
            "slot": failure.slot,
            "error": repr(failure.exception),
            "payload": dict(payload),
        }
        try:
            line = json.dumps(letter)
        except (TypeError, ValueError):
            line = json.dumps({**letter, "payload": None, "text": repr(letter["payload"])})
        with self._lock, self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def letters(self) -> list[dict[str, Any]]:
        """Return what has failed so far, oldest first."""
        with self._lock:
            lines = self._file.read_text("utf-8").splitlines() if self._file.exists() else []
        return [json.loads(line) for line in lines]

    def replay(self, flow: Flow) -> list[JobState]:
        """Start a job for each letter, where it failed. What fails again comes back, and what is no JSON stays."""
        with self._lock:
            taken = self._file.with_suffix(".replayed")
            if not self._file.exists():
                return []
            self._file.replace(taken)
            letters = [json.loads(line) for line in taken.read_text("utf-8").splitlines()]
            with self._file.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(each) + "\n" for each in letters if each["payload"] is None)
        return [
            flow.execute(each["routine"], each["payload"], slot=each["slot"])
            for each in letters
            if each["payload"] is not None
        ]
