"""What a distribution requires and has not got: an installer sees to that, and one may have been told not to."""

from __future__ import annotations

import re

# A name, extras, versions: `dask[distributed]>=2024.1,<2026`. One with a marker is for some systems, or an extra.
REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*$")
CLAUSE = re.compile(r"^(>=|<=|==|!=|<|>|~=)\s*([0-9]+(?:\.[0-9]+)*)$")
RELEASE = re.compile(r"^v?(?:[0-9]+!)?([0-9]+(?:\.[0-9]+)*)")


def unmet(distribution: str) -> list[str]:
    """Return in words what a distribution requires and has not got; what can't be judged counts as there."""
    from importlib.metadata import PackageNotFoundError, requires, version

    found = []
    try:
        required = requires(distribution) or []
    except PackageNotFoundError:
        return []
    for line in required:
        match = REQUIREMENT.match(line)
        if match is None:
            continue
        name, clauses = match.group(1), match.group(2)
        try:
            here = version(name)
        except PackageNotFoundError:
            found.append(f"it requires {line}, which is not installed")
            continue
        if not all(_holds(clause.strip(), here) for clause in clauses.split(",") if clause.strip()):
            found.append(f"it requires {line}, and version {here} is installed")
    return found


def _holds(clause: str, here: str) -> bool:
    match, release = CLAUSE.match(clause), RELEASE.match(here)
    if match is None or release is None:
        return True
    comparison, text = match.groups()
    wanted, got = _numbers(text), _numbers(release.group(1))
    length = max(len(wanted), len(got))
    ours, theirs = got + [0] * (length - len(got)), wanted + [0] * (length - len(wanted))
    if comparison == "~=":
        return ours >= theirs and got[: len(wanted) - 1] == wanted[:-1]
    return {
        ">=": ours >= theirs,
        "<=": ours <= theirs,
        "==": ours == theirs,
        "!=": ours != theirs,
        "<": ours < theirs,
        ">": ours > theirs,
    }[comparison]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(".")]
