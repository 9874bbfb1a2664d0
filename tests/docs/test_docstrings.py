"""The examples in docstrings do what they show, and the objects that users meet first have one."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import routilux_core

pytestmark = pytest.mark.once

MODULES = ("error_handling", "flow", "functions", "job", "mapping", "ports", "routine", "tracking")
SHOWN = ("ErrorHandler", "ExecutionTracker", "Flow", "JobState", "Routine", "as_routine", "map", "per_worker", "slot")


@pytest.mark.parametrize("name", MODULES)
def test_examples_do_what_they_show(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"routilux_core.{name}"))
    assert found.attempted
    assert found.failed == 0


@pytest.mark.parametrize("name", SHOWN)
def test_what_users_meet_first_has_an_example(name: str) -> None:
    made = getattr(routilux_core, name)
    methods = [each for _, each in inspect.getmembers(made, inspect.isfunction)] if inspect.isclass(made) else []
    assert any(">>> " in (each.__doc__ or "") for each in (made, *methods))


def test_all_public_objects_and_their_methods_say_what_they_are() -> None:
    silent = []
    for name in routilux_core.__all__:
        made = getattr(routilux_core, name)
        silent += [name] if not inspect.getdoc(made) and (inspect.isclass(made) or inspect.isfunction(made)) else []
        if inspect.isclass(made) and made.__module__.startswith("routilux_core"):
            silent += [
                f"{name}.{method}"
                for method, each in vars(made).items()
                if not method.startswith("_") and inspect.isfunction(each) and not inspect.getdoc(each)
            ]
    assert silent == []
