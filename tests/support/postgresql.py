"""A PostgreSQL server of our own, for as long as a test needs it."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path

SECONDS = 60


@contextmanager
def server() -> Iterator[str | None]:
    """Start a server that listens on a socket in a folder of its own, and give its address; None if there is none."""
    commands = _commands()
    if commands is None or importlib.util.find_spec("psycopg") is None:
        yield None
        return
    user = _owner()
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp", ignore_cleanup_errors=True) as folder:
        if user is not None:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        _run(user, commands / "initdb", "-D", data, "-A", "trust", "-U", "reader", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        _run(user, commands / "pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql:///postgres?host={folder}&user=reader"
        finally:
            _run(user, commands / "pg_ctl", "-D", data, "-m", "immediate", "stop")


def _commands() -> Path | None:
    """Return the folder of the server's commands: Debian keeps them off the path."""
    found = sorted(glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb")]
    return Path(found[-1]).parent if found[-1] else None


def _owner() -> str | None:
    """Return who starts it: a server refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _run(user: str | None, command: Path, *arguments: str) -> None:
    subprocess.run(
        [command, *arguments],
        user=user,
        cwd="/tmp",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=SECONDS,
    )
