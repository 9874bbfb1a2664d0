"""What a plugin sends along with tasks is entered in the worker, around each of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from routilux_core import Flow, JobState, hookimpl
from shipped.carried import Asks, on_behalf_of, raises, raises_at_end
from shipped.routines import Source
from waiting import comes_true

MakeFlow = Callable[..., Flow]
SECONDS = 30.0


class Carries:
    def __init__(self, *carried: Any) -> None:
        self.carried = carried
        self.asked: list[str] = []

    @hookimpl
    def routilux_carry(self, job: JobState) -> Any:
        self.asked.append(job.job_id)
        return self.carried[len(self.asked) - 1]


def run(flow: Flow, count: int) -> list[tuple[int, str, int]]:
    job = flow.execute("source", {"count": count})
    assert job.wait(SECONDS), job.explain()
    assert job.status == "completed"
    return sorted((each["n"], each["tenant"], each["entered"]) for each in job.outputs["asks.said"])


def build(flow: Flow) -> Flow:
    flow.add_routine(Source(), "source")
    flow.add_routine(Asks(), "asks")
    flow.connect("source", "item", "asks", "n")
    flow.add_output("asks", "said")
    return flow


def test_routilux_carry_is_asked_once_for_a_job_and_entered_around_each_task(
    make_flow: MakeFlow, shipped: dict[str, Any]
) -> None:
    plugin = Carries(partial(on_behalf_of, "Ada"), None, partial(on_behalf_of, "Bob"))
    flow = build(make_flow(**shipped, plugins=[plugin]))
    assert run(flow, 20) == [(n, "Ada", 1) for n in range(20)]
    assert run(flow, 5) == [(n, "nobody", 0) for n in range(5)]  # nothing is left behind
    assert run(flow, 5) == [(n, "Bob", 1) for n in range(5)]
    assert len(plugin.asked) == 3


def test_several_plugins_send_something_along_each(make_flow: MakeFlow, shipped: dict[str, Any]) -> None:
    plugins = [Carries(partial(on_behalf_of, name)) for name in ("Ada", "Bob")]
    flow = build(make_flow(**shipped, plugins=plugins))
    assert {(n, entered) for n, _, entered in run(flow, 3)} == {(0, 2), (1, 2), (2, 2)}


@pytest.mark.parametrize("bad", [lambda: 1, raises, raises_at_end, len, "no function"])
def test_what_cannot_be_sent_along_or_entered_is_logged_and_left_out(
    make_flow: MakeFlow, shipped: dict[str, Any], bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = [Carries(bad), Carries(partial(on_behalf_of, "Ada"))]
    flow = build(make_flow(**shipped, plugins=plugins))
    assert run(flow, 5) == [(n, "Ada", 1) for n in range(5)]
    # Where reports are streamed, the job has ended before a context is left: that record comes with the reply.
    assert comes_true(lambda: "routilux_carry" in caplog.text)


def test_a_plugin_that_raises_when_it_is_asked_what_to_carry_is_muted(
    make_flow: MakeFlow, shipped: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    flow = build(make_flow(**shipped, plugins=[Carries()]))  # it has nothing to give, and raises
    assert run(flow, 2) == [(0, "nobody", 0), (1, "nobody", 0)]
    assert caplog.text.count("raised IndexError in routilux_carry") == 1


def test_routilux_carry_is_not_asked_where_memory_is_shared(make_flow: MakeFlow, strategy: dict[str, Any]) -> None:
    plugin = Carries(None)
    flow = build(make_flow(**strategy, plugins=[plugin]))
    assert len(run(flow, 2)) == 2
    assert plugin.asked == []
