"""A handler in a worker process that forks: the child neither answers for the worker nor goes on with its work."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from processes.forking import Forks, Keeps, Many
from quickest import keywords
from routilux_core import Flow

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

ENDINGS = {"returns": 0, "emits": 0, "raises": 1, "exits": 3}


@pytest.mark.parametrize("routine", [Forks, Keeps])
@pytest.mark.parametrize("how", ENDINGS)
def test_a_child_that_a_handler_forks_ends_with_the_call_and_costs_nothing(
    make_flow: Callable[..., Flow], how: str, routine: type[Forks] | type[Keeps]
) -> None:
    flow = make_flow(**keywords("process", 1))
    flow.add_routine(Many(), "many", execution_strategy="sequential")
    flow.add_routine(routine(how=how), "forks")
    flow.connect("many", "item", "forks", "input")
    flow.add_output("forks", "done")
    pids = set()
    for _ in range(2):
        job = flow.execute("many", {"count": 20})
        assert job.wait(30.0)
        done = job.outputs["forks.done"]
        assert (job.status, job.errors) == ("completed", [])
        assert sorted(each["n"] for each in done) == list(range(20))
        assert [each["ended"] for each in done if each["n"] == 0] == [ENDINGS[how]]
        pids |= {each["pid"] for each in done}
    assert len(pids) == 1
