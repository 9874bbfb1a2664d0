"""Copies of what a routine refers to, code included: what is bound to the one, or encloses it, is the other's then."""

from __future__ import annotations

import copy
from functools import partial, update_wrapper
from types import CellType, FunctionType, MethodType
from typing import Any

CODE = (FunctionType, MethodType, partial)


class Twins:
    """What stands for what in a copy. `memo` is that of `copy.deepcopy`; `deep` says whether values are copied, too."""

    def __init__(self, memo: dict[int, Any], deep: bool) -> None:
        self._memo = memo
        self._deep = deep
        self._owned: set[int] = set()

    def all(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return what stands for each value; code among them may enclose another, which is copied before its turn."""
        self._owned = set(map(id, values.values()))
        return {name: self._named(name, value) for name, value in values.items()}

    def _named(self, name: str, value: Any) -> Any:
        try:
            return self.of(value)
        except Exception as error:
            error.add_note(f"its attribute {name!r}")
            raise

    def of(self, value: Any) -> Any:
        """Return what stands for a value."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return MethodType(self.of(value.__func__), self.of(value.__self__))
        if type(value) is partial:
            keywords = {name: self.of(each) for name, each in value.keywords.items()}
            return partial(self.of(value.func), *map(self.of, value.args), **keywords)
        return self._deep_copy(value) if self._deep else value

    def _deep_copy(self, value: Any) -> Any:
        """Return a deep copy; what plain containers hold may be code, which `copy.deepcopy` leaves as it is."""
        kind = type(value)
        if kind is list:
            items = self._memo[id(value)] = []
            items.extend(map(self.of, value))
            return items
        if kind is dict:
            table = self._memo[id(value)] = {}
            table.update({self.of(key): self.of(each) for key, each in value.items()})
            return table
        return copy.deepcopy(value, self._memo)

    def _function(self, function: FunctionType) -> FunctionType:
        """Return a function that encloses the copies of what this one encloses; itself where nothing was copied."""
        self._memo[id(function)] = function  # while what it encloses is looked at, which may lead here again
        enclosed, defaults = function.__closure__ or (), function.__defaults__ or ()
        cells = tuple(self._cell(cell, function) for cell in enclosed)
        given = tuple(map(self._enclosed, defaults))
        by_name = function.__kwdefaults__ or {}
        named = {name: self._enclosed(each) for name, each in by_name.items()}
        pairs = (*zip(cells, enclosed, strict=True), *zip(given, defaults, strict=True))
        if all(made is was for made, was in (*pairs, *zip(named.values(), by_name.values(), strict=True))):
            return function
        made = FunctionType(function.__code__, function.__globals__, function.__name__, given or None, cells)
        for cell in cells:
            if _holds(cell, function):
                cell.cell_contents = made
        made.__kwdefaults__ = named or None
        update_wrapper(made, function)
        made.__dict__.pop("__wrapped__", None)
        made.__dict__.update(function.__dict__)
        self._memo[id(function)] = made
        return made

    def _cell(self, cell: CellType, function: FunctionType) -> CellType:
        if _holds(cell, function):  # it calls itself: it has to be its copy that the copy calls
            return CellType(function)
        made = self._enclosed(cell.cell_contents) if _is_filled(cell) else None
        return cell if made is None or made is cell.cell_contents else CellType(made)

    def _enclosed(self, value: Any) -> Any:
        """Return what stands for something that a function encloses: as functions do, it shares what was not copied."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if id(value) in self._owned:
            return self.of(value)
        if isinstance(value, MethodType):
            owner = self._enclosed(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        return self.of(value) if isinstance(value, CODE) else value


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _holds(cell: CellType, value: Any) -> bool:
    return _is_filled(cell) and cell.cell_contents is value
