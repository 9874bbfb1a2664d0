"""The kit for journals passes the bundled one, and the kit for flows finds what may not be made again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journal import paying
from quickest import keywords
from routilux_core import Flow, Journal, Routine, event, slot
from routilux_core._journal.sqlite import SqliteJournal
from routilux_core.testing import CrashSuite, JournalSuite

pytestmark = pytest.mark.once

PAID: list[str] = []


class Pays(Routine, stateless=True):
    """Pays each bill once, whoever asks how often."""

    paid = event("amount")

    @slot
    def pay(self, amount: int) -> None:
        if self.activation.key not in PAID:
            PAID.append(self.activation.key)
        self.emit("paid", amount=amount)


class PaysBlindly(Pays, stateless=True):
    @slot
    def pay(self, amount: int) -> None:
        PAID.append(f"{amount}")
        self.emit("paid", amount=amount)


class TestSqliteJournal(JournalSuite):
    @pytest.fixture
    def make_journal(self, tmp_path: Path) -> Callable[[], Journal]:
        return lambda: SqliteJournal(tmp_path / "kit.db")


class TestThePaysOnce(CrashSuite):
    entry, params = "bills", {"count": 3}
    payer: type[Routine] = Pays
    strategy = "sequential"

    def make_flow(self, journal: Journal) -> Flow:
        flow = Flow("bills", self.strategy, journal=journal)
        flow.add_routine(paying.Bills(), "bills")
        flow.add_routine(self.payer(), "pays")
        flow.connect("bills", "bill", "pays", "pay")
        flow.add_output("pays", "paid")
        return flow

    def begin(self) -> None:
        PAID.clear()

    def outside(self) -> Any:
        return sorted(PAID)


class TestThePaysOnceInThreads(TestThePaysOnce):
    strategy = "concurrent"


class AwaitedPays(Pays, stateless=True):
    @slot
    async def pay(self, amount: int) -> None:
        await asyncio.sleep(0)
        Pays.pay(self, amount)


class TestTheAwaitedPaysOnce(TestThePaysOnce):
    payer, strategy = AwaitedPays, "asyncio"


class TestThePaysOnceElsewhere(CrashSuite):
    """The same in worker processes, each of which is new."""

    entry, params = "bills", {"count": 2}

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.paid = tmp_path / "paid"
        self.paid.mkdir()

    def make_flow(self, journal: Journal) -> Flow:
        flow = Flow("bills", **keywords("process", 1), journal=journal)
        flow.add_routine(paying.Bills(), "bills", execution_strategy="sequential")
        flow.add_routine(paying.PaysIntoFolder(folder=str(self.paid)), "pays")
        flow.connect("bills", "bill", "pays", "pay")
        flow.add_output("pays", "paid")
        return flow

    def begin(self) -> None:
        for file in self.paid.iterdir():
            file.unlink()

    def outside(self) -> Any:
        return sorted((file.name, file.read_text()) for file in self.paid.iterdir())


class Blindly(TestThePaysOnce):
    __test__ = False
    payer = PaysBlindly


class BlindlyInThreads(Blindly):
    strategy = "concurrent"


@pytest.mark.parametrize("blindly", [Blindly, BlindlyInThreads])
def test_a_handler_that_does_again_what_it_has_done_is_found(blindly: type[Blindly], tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"world outside is .*pays\.pay \(crash-suite:"):
        blindly().test_a_crash_behind_any_commit_changes_nothing(tmp_path)
