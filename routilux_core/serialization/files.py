"""JSON files: written beside and renamed over, read strictly."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections import Counter
from collections.abc import Mapping
from typing import Any

from routilux_core.errors import ConfigurationError
from routilux_core.serialization.problems import ROOT, Problems, collector_paused, reported
from routilux_core.serialization.type_lookup import shown


def write_file(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write a document; whoever reads the file finds the old or the new one, whole, also after a power failure."""
    with reported(f"{os.fspath(path)!r} can't be written as JSON") as problems:
        text = _text_of(document, problems)
    replace_file(path, text)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file beside, and rename it over: whoever reads it finds the old or the new one, whole."""
    _check_target(path)
    target = os.path.realpath(path)  # through a link, to what it leads to
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:50]}.{os.urandom(6).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            if os.path.exists(target):
                os.chmod(temporary, os.stat(target).st_mode & 0o777)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def _check_target(path: str | os.PathLike[str]) -> None:
    """Refuse what a file can't take the place of: renamed over a device or a pipe, it would destroy it."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return  # yet to be made, perhaps where a link leads
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    if not stat.S_ISREG(mode):
        kind = next((name for is_it, name in kinds if is_it(mode)), "a device")
        raise ConfigurationError(
            f"{os.fspath(path)!r} is {kind}, which a file can't be renamed over: give the path of a file, or write "
            "what serialize() returns yourself"
        )


def _text_of(document: Mapping[str, Any], problems: Problems) -> bytes:
    try:
        return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except ValueError as error:
        problems.add(ROOT, str(error))
    return b""


def _sync_folder(folder: str) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_file(path: str | os.PathLike[str]) -> Any:
    """Return what a JSON file holds."""
    with open(path, "rb") as file:
        raw = file.read()
    with reported(f"{os.fspath(path)!r} can't be read as JSON") as problems, collector_paused():
        return _parse(raw, problems)


def _parse(raw: bytes, problems: Problems) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) < len(found):
            [(twice, _)] = Counter(name for name, _ in found).most_common(1)
            problems.add(ROOT, f"an object has the key {shown(twice)} twice")
        return made

    def constant(name: str) -> None:
        problems.add(ROOT, f'{name} is no JSON: a float like that is written {{"$float": ...}}')

    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs, parse_constant=constant)
    except ValueError as error:
        problems.add(ROOT, str(error)[:200])
