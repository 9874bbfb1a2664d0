"""A program that runs the flow with everything, and says what came of it.

`program.py JOURNAL STRATEGY COUNT DURABILITY [SECONDS]` says `begun` when the job begins, or goes on; after so many
seconds it is paused, and left.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from threading import Timer
from typing import Any

from journal.everything import JOB, make_flow, result, work
from routilux_core import Flow


def to_the_end(flow: Flow, count: int) -> dict[str, Any]:
    """Go on with what was left, or begin; return what comes of it."""
    left = flow.recover()
    for job in left:
        job.resume()
    job = work(flow, count)
    in_doubt = {call.key for each in (*left, job) for call in each.in_doubt}
    return {"result": result(flow, job), "in_doubt": sorted(in_doubt), "recovered": len(left)}


def paused(flow: Flow, count: int, seconds: float) -> dict[str, Any]:
    """Pause a job after some seconds, and leave it when it is; return how it is left."""
    timer = Timer(seconds, flow.pause)
    timer.start()
    job = flow.execute("source", {"count": count}, job_id=JOB)
    while not job.wait(0.01) and job.status != "paused":
        pass  # a job that is paused while its flow is closed would be waited for
    timer.join()
    return {"left": job.status}


def main(path: str, strategy: str, count: str, durability: str, seconds: str | None = None) -> None:
    logging.disable()
    with make_flow(Path(path), strategy, durability) as flow:
        print("begun", flush=True)
        told = to_the_end(flow, int(count)) if seconds is None else paused(flow, int(count), float(seconds))
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
