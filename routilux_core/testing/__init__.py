"""For tests: of a handler (`call`), of a flow (`fixtures`), and of execution strategies (a conformance kit); and
strategies that let a test choose the order.

`StrategySuite`, `JournalSuite` and `CrashSuite` need pytest: `pip install routilux-core[testing]`. They are loaded when
they are asked for: workers that run the kit's routines import this package, too, and need no pytest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from routilux_core.strategy import Waiting
from routilux_core.testing._calls import Emitted, call
from routilux_core.testing._ordered import ManualStrategy, ShuffledStrategy

if TYPE_CHECKING:
    from routilux_core.testing._crash_suite import CrashSuite
    from routilux_core.testing._journal_suite import JournalSuite
    from routilux_core.testing._suite import StrategySuite

__all__ = [
    "CrashSuite",
    "Emitted",
    "JournalSuite",
    "ManualStrategy",
    "ShuffledStrategy",
    "StrategySuite",
    "Waiting",
    "call",
]

SUITES = {"CrashSuite": "_crash_suite", "JournalSuite": "_journal_suite", "StrategySuite": "_suite"}

# Their assertions show the values that they compared.
REWRITTEN = (
    "_suite",
    "_bench",
    "_pool_cases",
    "_work_cases",
    "_job_cases",
    "_loss_cases",
    "_program_cases",
    "_journal_suite",
)


def __getattr__(name: str) -> Any:
    if name not in SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import pytest
    except ImportError as error:
        raise ImportError(f'{name} needs pytest: pip install "routilux-core[testing]"') from error

    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in REWRITTEN))
    suite = globals()[name] = getattr(import_module(f"{__name__}.{SUITES[name]}"), name)
    return suite
