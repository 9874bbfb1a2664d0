"""Whether the workers of a cluster have what tasks need there, said so that a user knows what to do."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from platform import python_version_tuple
from typing import Any

PACKAGES = ("routilux-core", "routilux-dask")


def problems(address: str, said: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a worker, from what Dask's own request for versions has said."""
    packages = said.get("packages", {})
    found = []
    for package in PACKAGES:
        here, there = version(package), packages.get(package)
        if there is None:
            found.append(f"worker {address} lacks {package}: run `pip install {package}=={here}` in its environment")
        elif there != here:
            found.append(
                f"worker {address} has {package} {there}, and here it is {here}: install the same version on both sides"
            )
    here, there = ".".join(python_version_tuple()[:2]), ".".join(str(said["host"]["python"]).split(".")[:2])
    if here != there:
        found.append(f"worker {address} runs Python {there}, and here it is {here}: use the same on both sides")
    return found
