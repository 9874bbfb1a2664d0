"""A program that runs the flow with everything, and says what came of it: `program.py JOURNAL STRATEGY COUNT`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from journal.everything import make_flow, result, work

if __name__ == "__main__":
    logging.disable()
    print("begun", flush=True)
    with make_flow(Path(sys.argv[1]), sys.argv[2]) as flow:
        job = work(flow, int(sys.argv[3]))
        print(json.dumps({"result": result(flow, job), "in_doubt": [each.key for each in job.in_doubt]}))
