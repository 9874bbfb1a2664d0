"""Where the nodes of a graph go, and the way of each arrow: in layers, from left to right.

The steps are those of Sugiyama, Tagawa and Toda (1981): turn the arrows that close a cycle, give each node a layer by
the longest path to it, put a bend into each layer that an arrow passes, order each layer so that few arrows cross, and
then shift nodes within their layer to where their neighbours are, as far as the order and the gaps allow.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

BENDS = 8_000  # at most so many: the arrows that would need the most go straight through instead
SWEEPS = 8  # times that the layers are put in order, there and back
WORK = 400_000  # arrows looked at while they are; a large graph gets fewer sweeps
GAP_X, GAP_Y, BEND_GAP = 72.0, 22.0, 12.0

Point = tuple[float, float]


class Box(NamedTuple):
    """The size of a node."""

    width: float
    height: float


class Layout(NamedTuple):
    """The size of the whole, the middle of each node, and the points of each arrow, from its source to its target."""

    width: float
    height: float
    centres: list[Point]
    routes: list[list[Point]]


def lay_out(boxes: Sequence[Box], arrows: Sequence[tuple[int, int]], gaps: Sequence[float]) -> Layout:
    """Return places for nodes of these sizes; `gaps` is the room that each arrow needs for what is written on it."""
    loops = [source == target for source, target in arrows]
    straight = _without_cycles(len(boxes), [arrow for arrow, loop in zip(arrows, loops, strict=True) if not loop])
    layers = _layers(len(boxes), straight)
    net = _Net(list(boxes), layers, straight)
    net.order()
    ys = net.heights()
    xs, width = _columns(net, zip(arrows, gaps, strict=True))
    top = min((y - box.height / 2 for y, box in zip(ys, net.boxes, strict=True)), default=0.0)
    bottom = max((y + box.height / 2 for y, box in zip(ys, net.boxes, strict=True)), default=0.0)
    places = [(xs[layer], y - top) for layer, y in zip(net.layer, ys, strict=True)]
    routes = _routes(boxes, arrows, loops, net.chains, places)
    return Layout(width, bottom - top, places[: len(boxes)], routes)


def _without_cycles(count: int, arrows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the arrows with those turned that lead back to where they come from. No recursion: chains are long."""
    ahead: list[list[int]] = [[] for _ in range(count)]
    for number, (source, _) in enumerate(arrows):
        ahead[source].append(number)
    turned = list(arrows)
    fresh, open_, done = 0, 1, 2
    state = [fresh] * count
    for start in range(count):
        if state[start] != fresh:
            continue
        state[start] = open_
        trail = [(start, iter(ahead[start]))]
        while trail:
            node, rest = trail[-1]
            number = next(rest, -1)
            if number < 0:
                state[node] = done
                trail.pop()
                continue
            target = arrows[number][1]
            if state[target] == open_:
                turned[number] = (target, node)
            elif state[target] == fresh:
                state[target] = open_
                trail.append((target, iter(ahead[target])))
    return turned


def _layers(count: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    """Return the layer of each node: one more than that of the last node before it. What begins goes near its first."""
    before = [0] * count
    ahead: list[list[int]] = [[] for _ in range(count)]
    for source, target in arrows:
        before[target] += 1
        ahead[source].append(target)
    starts = [node for node in range(count) if not before[node]]
    layer, ready = [0] * count, list(starts)
    for node in ready:
        for target in ahead[node]:
            layer[target] = max(layer[target], layer[node] + 1)
            before[target] -= 1
            if not before[target]:
                ready.append(target)
    for node in starts:
        if ahead[node]:
            layer[node] = min(layer[target] for target in ahead[node]) - 1
    return layer


class _Net:
    """Nodes and bends in layers. A bend is a node without a size, where an arrow passes a layer."""

    def __init__(self, boxes: list[Box], layers: list[int], arrows: Sequence[tuple[int, int]]) -> None:
        self.boxes = boxes
        self.nodes = len(boxes)
        self.layer = layers
        self.chains: list[list[int]] = []  # of each arrow: its source, its bends, its target
        allowed = _longest_with_bends(layers, arrows)
        for source, target in arrows:
            self.chains.append([source, *self._bends(source, target, allowed), target])
        self.before: list[list[int]] = [[] for _ in boxes]
        self.behind: list[list[int]] = [[] for _ in boxes]
        for chain in self.chains:
            for source, target in pairwise(chain):
                self.behind[source].append(target)
                self.before[target].append(source)
        self.rows: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
        for node, number in enumerate(layers):
            self.rows[number].append(node)
        self.links = sum(map(len, self.behind))

    def _bends(self, source: int, target: int, allowed: int) -> Iterable[int]:
        between = range(self.layer[source] + 1, self.layer[target])
        if len(between) > allowed:
            return ()
        first = len(self.boxes)
        self.boxes += [Box(0.0, 0.0)] * len(between)
        self.layer += between
        return range(first, len(self.boxes))

    # -- the order

    def order(self) -> None:
        """Order each layer by where the neighbours of its nodes are, there and back, and keep the best that was."""
        self._begin()
        best, fewest = [row.copy() for row in self.rows], self._crossings()
        for sweep in range(max(2, min(SWEEPS, WORK // (self.links + 1)))):
            if not fewest:
                break
            self._sweep(forth=sweep % 2 == 0)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [row.copy() for row in self.rows], crossings
        self.rows = best

    def _begin(self) -> None:
        """Put what belongs together near each other: a walk in depth from what comes first."""
        seen: set[int] = set()
        rows: list[list[int]] = [[] for _ in self.rows]
        for start in (node for row in self.rows for node in row):
            stack = [start]
            while stack:
                node = stack.pop()
                if node not in seen:
                    seen.add(node)
                    rows[self.layer[node]].append(node)
                    stack += reversed(self.behind[node])
        self.rows = rows

    def _sweep(self, forth: bool) -> None:
        rows = self.rows if forth else self.rows[::-1]
        neighbours = self.before if forth else self.behind
        place = self._places()
        for row in rows[1:]:
            middles = {}
            for node in row:
                near = neighbours[node]
                middles[node] = sum(place[each] for each in near) / len(near) if near else float(place[node])
            row.sort(key=middles.__getitem__)
            for number, node in enumerate(row):
                place[node] = number

    def _places(self) -> list[int]:
        place = [0] * len(self.boxes)
        for row in self.rows:
            for number, node in enumerate(row):
                place[node] = number
        return place

    def _crossings(self) -> int:
        """Return how many pairs of arrows cross between neighbouring layers: inversions, counted in a sorted list."""
        place, found = self._places(), 0
        for row in self.rows:
            ends: list[int] = []
            for node in row:
                targets = [place[each] for each in self.behind[node]]
                found += sum(len(ends) - bisect_right(ends, each) for each in targets)
                for each in targets:
                    insort(ends, each)
        return found

    # -- the heights

    def heights(self) -> list[float]:
        """Return the middle of each node across the layers."""
        ys = [0.0] * len(self.boxes)
        for row in self.rows:
            self._settle(row, [0.0] * len(row), ys)
        for sweep in range(SWEEPS):
            forth = sweep % 2 == 0
            for row in self.rows if forth else self.rows[::-1]:
                self._settle(row, [self._wish(node, ys, forth, sweep) for node in row], ys)
        return ys

    def _wish(self, node: int, ys: list[float], forth: bool, sweep: int) -> float:
        """Return where a node would be by its neighbours: those just placed, and at last those on both sides."""
        near = self.before[node] if forth else self.behind[node]
        if not near or sweep >= SWEEPS - 2:
            near = self.before[node] + self.behind[node]
        if not near:
            return ys[node]
        # A bend follows its arrow, so that long arrows are straight.
        weights = [4 if each >= self.nodes and node >= self.nodes else 1 for each in near]
        return sum(ys[each] * weight for each, weight in zip(near, weights, strict=True)) / sum(weights)

    def _settle(self, row: list[int], wishes: list[float], ys: list[float]) -> None:
        """Put a layer where it wishes to be, with the least squares of what that misses: neighbours that would overlap
        move together (pool adjacent violators)."""
        offsets, at = [], 0.0
        for number, node in enumerate(row):
            if number:
                at += self._distance(row[number - 1], node)
            offsets.append(at)
        blocks: list[list[float]] = []  # sum of wishes, count
        for wish, offset in zip(wishes, offsets, strict=True):
            blocks.append([wish - offset, 1.0])
            while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
                total, count = blocks.pop()
                blocks[-1][0] += total
                blocks[-1][1] += count
        base = [total / count for total, count in blocks for _ in range(int(count))]
        for node, start, offset in zip(row, base, offsets, strict=True):
            ys[node] = start + offset

    def _distance(self, one: int, other: int) -> float:
        gap = GAP_Y if one < self.nodes and other < self.nodes else BEND_GAP
        return (self.boxes[one].height + self.boxes[other].height) / 2 + gap


def _longest_with_bends(layers: list[int], arrows: Sequence[tuple[int, int]]) -> int:
    """Return how many layers an arrow may pass and still bend in each, so that there are not too many bends."""
    longest = total = 0
    for between in sorted(layers[target] - layers[source] - 1 for source, target in arrows):
        total += between
        if total > BENDS:
            break
        longest = between
    return longest


def _columns(net: _Net, labelled: Iterable[tuple[tuple[int, int], float]]) -> tuple[list[float], float]:
    """Return the middle of each layer, and the width of all: a gap is as wide as what is written on its arrows."""
    widths = [max((net.boxes[node].width for node in row), default=0.0) for row in net.rows]
    room = [GAP_X] * len(widths)
    for (source, target), gap in labelled:
        first = net.layer[source] - (net.layer[target] < net.layer[source])  # it is written next to the source
        if source != target:
            room[first] = max(room[first], gap)
    middles, at = [], 0.0
    for width, gap in zip(widths, room, strict=True):
        middles.append(at + width / 2)
        at += width + gap
    return middles, at - (room[-1] if room else 0.0)


def _routes(
    boxes: Sequence[Box],
    arrows: Sequence[tuple[int, int]],
    loops: Sequence[bool],
    chains: Sequence[list[int]],
    places: Sequence[Point],
) -> list[list[Point]]:
    """Return the points of each arrow, which leaves at the right side of its source and ends at the left of its target.

    One that was turned goes from left to right.
    """
    rest, routes = iter(chains), []
    for (source, target), loop in zip(arrows, loops, strict=True):
        chain = [source, target] if loop else next(rest)
        if chain[0] != source:
            chain = chain[::-1]
        back = loop or places[source][0] >= places[target][0]
        side = -1 if back and not loop else 1
        (x, y), (end_x, end_y) = places[source], places[target]
        start = (x + side * boxes[source].width / 2, y)
        end = (end_x - side * boxes[target].width / 2, end_y)
        if loop:
            up = y - boxes[source].height / 2
            routes.append([(x - 16, up), (x - 16, up - 14), (x + 16, up - 14), (x + 16, up)])
        else:
            routes.append([start, *(places[node] for node in chain[1:-1]), end])
    return routes
