"""Multiresolution IsoSurface Extraction (paper, section 3.3): a field's values on a fine grid, most of them never
computed.

The field is evaluated at the corners of a coarse grid of cubes. A cube is active where known values at its corners, or
elsewhere on its boundary, lie on both sides of the threshold: it is split into eight, whose corners are evaluated, and
so on down to the finest level, until no cube is active that could be split. What lies in the other cubes is on one
side of the threshold, as far as anything is known, and takes the value at its lower corner.

On all cells that the level set crosses the values are those of the dense grid, so that marching cubes makes the same
mesh, vertex for vertex (up to the last bits of a network, whose values depend on what is asked beside). The exception,
in the nature of the method: a part of the surface that no known value of a coarse cube gives away (a component between
the coarse corners, a wire through the middle of faces) is not found. `resolution_0` says how small such parts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BOX = 1.1  # edge of the box around the unit cube: padding 0.1
Field = Callable[[np.ndarray], np.ndarray]
CORNERS = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)])
LATTICE = np.array([(i, j, k) for i in (0, 1, 2) for j in (0, 1, 2) for k in (0, 1, 2)])


@dataclass(frozen=True)
class Grid:
    """values: (R + 1, R + 1, R + 1) float32, axes x, y, z. evaluated: at how many of them the field was asked.

    steps: of each round, the finest cubes' edge in cells and the lower corners of the cubes that were split, (n, 3).
    """

    values: np.ndarray
    evaluated: int
    steps: tuple[tuple[int, np.ndarray], ...] = ()

    @property
    def resolution(self) -> int:
        return len(self.values) - 1


def check_resolution(resolution: int, coarse: int) -> int:
    """How often `coarse` is doubled to get `resolution`. Raises ValueError where it cannot be."""
    if coarse < 1 or resolution < coarse or resolution % coarse or (resolution // coarse) & (resolution // coarse - 1):
        raise ValueError(f"method.resolution={resolution} must be method.resolution_0={coarse} times a power of two")
    return (resolution // coarse).bit_length() - 1


def positions(corners: np.ndarray, resolution: int, box: float = BOX) -> np.ndarray:
    """Corners (n, 3), integers in 0..resolution -> their places in the box around 0, (n, 3) float32."""
    return (box * (corners / resolution - 0.5)).astype(np.float32)


def dense(field: Field, resolution: int, box: float = BOX) -> Grid:
    """The field at every corner. field: places (n, 3) float32 -> values (n,)."""
    side = resolution + 1
    corners = np.stack(np.unravel_index(np.arange(side**3), (side,) * 3), axis=1)
    values = np.asarray(field(positions(corners, resolution, box)), dtype=np.float32)
    return Grid(values.reshape((side,) * 3), side**3)


def mise(field: Field, threshold: float, resolution: int = 128, coarse: int = 32, box: float = BOX) -> Grid:
    """The field at the corners around its level set, and on its right side everywhere else.

    Args:
        field: places (n, 3) float32 -> values (n,). threshold: the level.
        resolution: R, cells a side of the finest grid. coarse: of the first; R is a power of two times it, else
            ValueError. box: edge of the box around 0.
    """
    levels = check_resolution(resolution, coarse)
    side = resolution + 1
    values = np.full(side**3, np.nan, dtype=np.float32)
    # of every level's cubes: is it a leaf, is a known value in it at or above the threshold, at or below it
    cubes = [coarse * 2**level for level in range(levels)]
    leaf = [np.full(n**3, level == 0) for level, n in enumerate(cubes)]
    above, below = ([np.zeros(n**3, dtype=bool) for n in cubes] for _ in range(2))

    spacing = 2**levels
    axis = np.arange(0, side, spacing)
    new = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    evaluated, steps = 0, []
    while len(new):
        found = np.asarray(field(positions(new, resolution, box)), dtype=np.float32)
        values[ravel(new, side)] = found
        evaluated += len(new)
        queries = []
        for level, n in enumerate(cubes):
            mark(above[level], new[found >= threshold], resolution // n, n)
            mark(below[level], new[found <= threshold], resolution // n, n)
        for level, n in enumerate(cubes):  # coarse first: a cube that is split now can be split again in this round
            edge = resolution // n
            active = np.flatnonzero(leaf[level] & above[level] & below[level])
            if not len(active):
                continue
            leaf[level][active] = False
            lower = np.stack(np.unravel_index(active, (n,) * 3), axis=1)
            if level + 1 < levels:
                leaf[level + 1][ravel((2 * lower[:, None] + CORNERS).reshape(-1, 3), 2 * n)] = True
            steps.append((edge, lower * edge))
            queries.append(((lower[:, None] * 2 + LATTICE) * (edge // 2)).reshape(-1, 3))
        new = unknown(np.concatenate(queries), values, side) if queries else new[:0]
    return Grid(filled(values.reshape((side,) * 3), spacing, steps), evaluated, tuple(steps))


def thinned(grid: Grid, resolution: int) -> Grid:
    """The values at every so many corners. As good as `mise` at that resolution, which must divide the grid's: around
    its level set all corners are known."""
    step = grid.resolution // resolution
    return Grid(np.ascontiguousarray(grid.values[::step, ::step, ::step]), 0)


def ravel(corners: np.ndarray, side: int) -> np.ndarray:
    """(n, 3) -> (n,), places in a flat array of side^3."""
    return (corners[:, 0] * side + corners[:, 1]) * side + corners[:, 2]


def mark(flags: np.ndarray, corners: np.ndarray, edge: int, n: int) -> None:
    """Sets the flag of every cube, closed, that a corner lies in: eight where it is a corner of theirs, else fewer."""
    for offset in CORNERS:
        cube = (corners - offset) // edge
        flags[ravel(cube[((cube >= 0) & (cube < n)).all(1)], n)] = True


def unknown(corners: np.ndarray, values: np.ndarray, side: int) -> np.ndarray:
    """The corners, each once, that have no value yet."""
    wanted = np.zeros(side**3, dtype=bool)
    wanted[ravel(corners, side)] = True
    places = np.flatnonzero(wanted & np.isnan(values))
    return np.stack(np.unravel_index(places, (side,) * 3), axis=1)


def filled(values: np.ndarray, spacing: int, steps: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """Unknown (NaN) values replaced by that at the lower corner of the cube that they lie in: (R + 1,) * 3.

    The cube is the smallest one there is, and was not split, so that all its known values are on one side.
    spacing: edge of the coarse cubes. steps: as of `Grid`.
    """
    side = len(values)
    lower = values[::spacing, ::spacing, ::spacing]
    for axis in range(3):
        lower = lower.repeat(spacing, axis=axis).take(range(side), axis=axis)
    flat, known = lower.ravel(), values.ravel()
    for edge, cubes in sorted(steps, key=lambda step: -step[0]):
        half = edge // 2
        if half == 1:
            continue  # all corners are known
        parts = (cubes[:, None] + half * CORNERS).reshape(-1, 3)
        within = np.stack(np.unravel_index(np.arange(half**3), (half,) * 3), axis=1)
        flat[ravel((parts[:, None] + within).reshape(-1, 3), side)] = np.repeat(known[ravel(parts, side)], half**3)
        last = parts[(parts + half == side - 1).any(1)]  # the grid's upper faces belong to the cubes below them
        closed = np.stack(np.unravel_index(np.arange((half + 1) ** 3), (half + 1,) * 3), axis=1)
        inner = last[:, None] + closed
        whose, which = np.nonzero(((closed < half) | (inner == side - 1)).all(2))
        flat[ravel(inner[whose, which], side)] = known[ravel(last[whose], side)]
    return np.where(np.isnan(values), flat.reshape(values.shape), values)
