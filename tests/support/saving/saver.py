"""A program: save two flows to one file in turn, for ever, with a line after each time. It is there to be killed.

python saver.py FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from routilux_core import Flow
from saving.routines import Counts


def flow(name: str, routines: int) -> Flow:
    made = Flow(name)
    for number in range(routines):
        made.add_routine(Counts(text=name, number=number), f"{name} {number}")
    return made


if __name__ == "__main__":
    both = [flow("old", 60), flow("new", 90)]
    while True:
        for each in both:
            each.save(sys.argv[1])
            print("saved", flush=True)
