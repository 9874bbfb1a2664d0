"""For tests: of a handler (`call`), of a flow (`fixtures`), and of execution strategies (a conformance kit); and
strategies that let a test choose the order.

`StrategySuite` needs pytest: `pip install routilux-core[testing]`. It is loaded when it is asked for: workers that run
the kit's routines import this package, too, and need no pytest.
"""

from typing import TYPE_CHECKING, Any

from routilux_core.strategy import Waiting
from routilux_core.testing._calls import Emitted, call
from routilux_core.testing._ordered import ManualStrategy, ShuffledStrategy

if TYPE_CHECKING:
    from routilux_core.testing._suite import StrategySuite

__all__ = ["Emitted", "ManualStrategy", "ShuffledStrategy", "StrategySuite", "Waiting", "call"]

# Their assertions show the values that they compared.
REWRITTEN = ("_suite", "_bench", "_pool_cases", "_work_cases", "_job_cases", "_loss_cases", "_program_cases")


def __getattr__(name: str) -> Any:
    if name != "StrategySuite":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import pytest
    except ImportError as error:
        raise ImportError('StrategySuite needs pytest: pip install "routilux-core[testing]"') from error

    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in REWRITTEN))
    from routilux_core.testing._suite import StrategySuite

    globals()[name] = StrategySuite
    return StrategySuite
