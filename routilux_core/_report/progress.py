"""Progress while jobs run: a thread that reads their counts ten times a second, where somebody looks."""

from __future__ import annotations

import sys
import threading
from html import escape
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from routilux_core._report.picture import shortened
from routilux_core._report.reading import Reader, Reading
from routilux_core._report.table import table_of
from routilux_core._report.terminal import Block, Redirection, is_terminal
from routilux_core.hookspecs import hookimpl
from routilux_core.job import JobState

EVERY_S = 0.1
MOST = 8  # jobs that are shown at a time


class Display(Protocol):
    """Where progress is shown."""

    def show(self, readers: list[Reader]) -> None: ...
    def end(self) -> None: ...


class Progress:
    """A plugin of one flow: shows its jobs from the start of the first until the end of the last that runs.

    With `watches` it shows the figures of each routine as well.
    """

    def __init__(self, watches: bool = False) -> None:
        self._watches = watches
        self._lock = threading.Lock()
        self._readers: dict[str, Reader] = {}
        self._running: set[str] = set()
        self._shown: _Shown | None = None

    @hookimpl
    def routilux_job_started(self, job: JobState) -> None:
        with self._lock:
            self._readers[job.job_id] = Reader(job)
            self._running.add(job.job_id)
            if self._shown is None:
                display = display_here(self._watches)
                self._shown = None if display is None else _Shown(display, self._newest)

    @hookimpl
    def routilux_job_finished(self, job: JobState) -> None:
        with self._lock:
            self._running.discard(job.job_id)
            if self._running:
                return
            shown, self._shown = self._shown, None
        if shown is not None:
            shown.end()  # with the last words of the jobs, before anybody goes on who waits for them
        with self._lock:
            self._readers = {name: each for name, each in self._readers.items() if name in self._running}

    def _newest(self) -> list[Reader]:
        with self._lock:
            return list(self._readers.values())[-MOST:]


class _Shown:
    """A display and the thread that keeps it up to date."""

    def __init__(self, display: Display, newest: Any) -> None:
        self._display, self._newest = display, newest
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="routilux-progress", daemon=True)
        self._thread.start()

    def _go_on(self) -> None:
        while not self._over.wait(EVERY_S):
            self._display.show(self._newest())

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self._display.show(self._newest())
        self._display.end()


def display_here(watches: bool) -> Display | None:
    """Return where progress can be shown: in a notebook, or on the terminal; None where nobody looks."""
    if in_notebook():
        return NotebookDisplay(watches)
    if not is_terminal(sys.stderr):
        return None
    if find_spec("tqdm") is not None and not watches:
        return TqdmDisplay()
    return TerminalDisplay(watches)


def in_notebook() -> bool:
    """Return whether this is the kernel of a notebook. Without IPython it can't be; it is not imported for that."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class TerminalDisplay:
    """One plain line for each job, or a table."""

    def __init__(self, watches: bool) -> None:
        self._watches = watches
        self._block = Block(sys.stderr)
        self._redirection = Redirection(self._block.above)

    def show(self, readers: list[Reader]) -> None:
        self._block.show(lines_of(readers, self._watches))

    def end(self) -> None:
        self._block.end()
        self._redirection.end()


class TqdmDisplay:
    """A line of tqdm for each job: it has no total, since that grows."""

    FORMAT = "{desc}: {n_fmt} done [{elapsed}{postfix}]"

    def __init__(self) -> None:
        self._tqdm: Any = import_module("tqdm").tqdm
        self._stream = sys.stderr
        self._bars: dict[str, Any] = {}
        self._redirection = Redirection(self._above)

    def _above(self, text: str) -> None:
        self._tqdm.write(text, file=self._stream, end="")

    def show(self, readers: list[Reader]) -> None:
        for reading in [reader.read() for reader in readers]:
            bar = self._bars.get(reading.job)
            if bar is None:
                settings = {"bar_format": self.FORMAT, "dynamic_ncols": True, "file": self._stream}
                bar = self._bars[reading.job] = self._tqdm(position=len(self._bars), **settings)
            bar.set_description_str(_title(reading), refresh=False)
            bar.n = reading.done
            bar.set_postfix_str(reading.counts, refresh=False)
            bar.refresh()

    def end(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._redirection.end()


class NotebookDisplay:
    """One output of a cell, which is updated."""

    def __init__(self, watches: bool) -> None:
        self._watches = watches
        self._shell: Any = import_module("IPython.display")
        self._handle: Any = self._shell.display(self._shell.HTML(""), display_id=True)

    def show(self, readers: list[Reader]) -> None:
        text = "\n".join(lines_of(readers, self._watches))
        self._handle.update(self._shell.HTML(f"<pre>{escape(text)}</pre>"))

    def end(self) -> None:
        """Leave the last state where it is."""


def lines_of(readers: list[Reader], watches: bool) -> list[str]:
    """Return a line for each job, and the figures of the routines of the last one where they are asked for."""
    lines = [reader.read().line for reader in readers]
    return lines + table_of(readers[-1].job) if watches and readers else lines


def _title(reading: Reading) -> str:
    return f"{shortened(reading.job, 40)} {reading.status}"
