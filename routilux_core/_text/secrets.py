"""What must not be shown or saved: fields that are declared with `field(metadata={"secret": True})`."""

from __future__ import annotations

from typing import Any

HIDDEN = "***"


def is_secret(declared: Any) -> bool:
    """Return whether a field, of attrs or of dataclasses, is marked as secret."""
    return bool(declared.metadata.get("secret"))


def without_secrets(cls: type, declared: list[Any]) -> list[Any]:
    """Leave secret fields out of the `repr` that attrs is about to make: it calls this with all fields."""
    return [each.evolve(repr=False) if is_secret(each) else each for each in declared]
