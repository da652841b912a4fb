"""Multiresolution IsoSurface Extraction (MISE; paper, section 3.3): values of a field on a fine grid, few computed.

The field is evaluated at the corners of a coarse grid of cubes. A cube is active if known values at its corners, or
elsewhere on its boundary, lie on both sides of the threshold: it is split into eight, whose corners are evaluated, and
so on down to the finest level, until no active cube can be split. The other cubes lie on one side of the threshold, as
far as anything is known, and get the value at their lower corner.

On all cells that the level set crosses the values are those of the dense grid, so that marching cubes makes the same
mesh, vertex for vertex (up to the last bits of a network, whose values depend on the batch of points). The exception is
part of the method: a part of the surface that no known value of a coarse cube reveals (a component between the coarse
corners, a wire through the center of faces) is not found. `resolution_0` limits how small such parts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BOX = 1.1  # edge of the box around the unit cube: padding 0.1
NumpyField = Callable[[np.ndarray], np.ndarray]
CORNERS = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)])
LATTICE = np.array([(i, j, k) for i in (0, 1, 2) for j in (0, 1, 2) for k in (0, 1, 2)])


@dataclass(frozen=True)
class Grid:
    """Values of a field on a grid.

    Args:
        values: values (R + 1, R + 1, R + 1) float32, axes x, y, z.
        evaluated: number of points at which the field was evaluated.
        steps: of each round, the edge of the split cubes in cells, and their lower corners (n, 3).
    """

    values: np.ndarray
    evaluated: int
    steps: tuple[tuple[int, np.ndarray], ...] = ()

    @property
    def resolution(self) -> int:
        """Return the number of cells R per axis."""
        return len(self.values) - 1


def upsampling_steps(resolution: int, coarse: int) -> int:
    """Return how often `coarse` is doubled to get `resolution`.

    Raises:
        ValueError: if `resolution` is not a power of two times `coarse`.
    """
    if coarse < 1 or resolution < coarse or resolution % coarse or (resolution // coarse) & (resolution // coarse - 1):
        raise ValueError(f"method.resolution={resolution} must be method.resolution_0={coarse} times a power of two")
    return (resolution // coarse).bit_length() - 1


def grid_positions(corners: np.ndarray, resolution: int, box: float = BOX) -> np.ndarray:
    """Return the positions of corners of the grid in the box around 0.

    Args:
        corners: integers (n, 3) in 0..resolution.
        resolution: cells per axis.
        box: edge of the box.

    Returns:
        Positions (n, 3) float32.
    """
    return (box * (corners / resolution - 0.5)).astype(np.float32)


def dense_grid(field: NumpyField, resolution: int, box: float = BOX) -> Grid:
    """Evaluate a field at every corner of a grid.

    Args:
        field: function from points (n, 3) float32 to values (n,).
        resolution: cells per axis.
        box: edge of the box around 0.
    """
    side = resolution + 1
    corners = np.stack(np.unravel_index(np.arange(side**3), (side,) * 3), axis=1)
    values = np.asarray(field(grid_positions(corners, resolution, box)), dtype=np.float32)
    return Grid(values.reshape((side,) * 3), side**3)


class _Octree:
    """Cubes of all levels: which are leaves, and on which sides of the threshold their known values lie.

    Args:
        resolution: cells per axis of the finest grid.
        coarse: cubes per axis of the first level.
        levels: number of levels whose cubes can be split.
    """

    def __init__(self, resolution: int, coarse: int, levels: int) -> None:
        self.resolution = resolution
        self.cubes = [coarse * 2**level for level in range(levels)]  # per axis
        self.leaf = [np.full(n**3, level == 0) for level, n in enumerate(self.cubes)]
        self.above, self.below = ([np.zeros(n**3, dtype=bool) for n in self.cubes] for _ in range(2))

    def mark(self, corners: np.ndarray, values: np.ndarray, threshold: float) -> None:
        """Record new values at corners (n, 3) in all cubes that they belong to."""
        for level, n in enumerate(self.cubes):
            mark_cubes(self.above[level], corners[values >= threshold], self.resolution // n, n)
            mark_cubes(self.below[level], corners[values <= threshold], self.resolution // n, n)

    def split(self) -> list[tuple[int, np.ndarray]]:
        """Split all active leaves, coarse ones first, so that a new cube can be split again in the same round.

        Returns:
            Edge in cells, and lower corners (n, 3), of the cubes that were split, per level.
        """
        steps = []
        for level, n in enumerate(self.cubes):
            edge = self.resolution // n
            active = np.flatnonzero(self.leaf[level] & self.above[level] & self.below[level])
            if not len(active):
                continue
            self.leaf[level][active] = False
            lower = np.stack(np.unravel_index(active, (n,) * 3), axis=1)
            if level + 1 < len(self.cubes):
                self.leaf[level + 1][ravel((2 * lower[:, None] + CORNERS).reshape(-1, 3), 2 * n)] = True
            steps.append((edge, lower * edge))
        return steps


def mise(field: NumpyField, threshold: float, resolution: int = 128, coarse: int = 32, box: float = BOX) -> Grid:
    """Evaluate a field at the corners around its level set, and put a value on the same side everywhere else.

    Args:
        field: function from points (n, 3) float32 to values (n,).
        threshold: level.
        resolution: cells per axis R of the finest grid, a power of two times `coarse`.
        coarse: cells per axis of the first grid.
        box: edge of the box around 0.

    Raises:
        ValueError: if `resolution` is not a power of two times `coarse`.
    """
    levels = upsampling_steps(resolution, coarse)
    side, spacing = resolution + 1, 2**levels
    values = np.full(side**3, np.nan, dtype=np.float32)
    octree = _Octree(resolution, coarse, levels)
    axis = np.arange(0, side, spacing)
    new = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    evaluated = 0
    steps: list[tuple[int, np.ndarray]] = []
    while len(new):
        computed = np.asarray(field(grid_positions(new, resolution, box)), dtype=np.float32)
        values[ravel(new, side)] = computed
        evaluated += len(new)
        octree.mark(new, computed, threshold)
        split = octree.split()
        steps += split
        queries = [((lower[:, None] // edge * 2 + LATTICE) * (edge // 2)).reshape(-1, 3) for edge, lower in split]
        new = unknown_corners(np.concatenate(queries), values, side) if queries else new[:0]
    return Grid(fill_unknown(values.reshape((side,) * 3), spacing, steps), evaluated, tuple(steps))


def subsample_grid(grid: Grid, resolution: int) -> Grid:
    """Return the grid at a lower resolution, a divisor of its own.

    It is as good as `mise` at that resolution: all corners around its level set are known.
    """
    step = grid.resolution // resolution
    return Grid(np.ascontiguousarray(grid.values[::step, ::step, ::step]), 0)


def ravel(corners: np.ndarray, side: int) -> np.ndarray:
    """Return the places (n,) of corners (n, 3) in a flat array of side^3."""
    return (corners[:, 0] * side + corners[:, 1]) * side + corners[:, 2]


def mark_cubes(flags: np.ndarray, corners: np.ndarray, edge: int, n: int) -> None:
    """Set the flag of every closed cube that a corner lies in: eight if it is a corner of theirs, else fewer.

    Args:
        flags: flags (n^3,) of the cubes, changed in place.
        corners: corners (k, 3).
        edge: edge of the cubes in cells.
        n: cubes per axis.
    """
    for offset in CORNERS:
        cube = (corners - offset) // edge
        flags[ravel(cube[((cube >= 0) & (cube < n)).all(1)], n)] = True


def unknown_corners(corners: np.ndarray, values: np.ndarray, side: int) -> np.ndarray:
    """Return the corners (n, 3), each once, whose value (side^3,) is NaN."""
    requested = np.zeros(side**3, dtype=bool)
    requested[ravel(corners, side)] = True
    places = np.flatnonzero(requested & np.isnan(values))
    return np.stack(np.unravel_index(places, (side,) * 3), axis=1)


def fill_unknown(values: np.ndarray, spacing: int, steps: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
    """Replace unknown values by that at the lower corner of the cube that they lie in.

    The cube is the smallest one there is, and was not split, so that all its known values are on one side.

    Args:
        values: values (R + 1, R + 1, R + 1), NaN where unknown.
        spacing: edge of the coarse cubes in cells.
        steps: cubes that were split, as in `Grid`.

    Returns:
        Values (R + 1, R + 1, R + 1).
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
        last = parts[(parts + half == side - 1).any(1)]  # the upper faces of the grid belong to the cubes below them
        closed = np.stack(np.unravel_index(np.arange((half + 1) ** 3), (half + 1,) * 3), axis=1)
        inner = last[:, None] + closed
        cube, corner = np.nonzero(((closed < half) | (inner == side - 1)).all(2))
        flat[ravel(inner[cube, corner], side)] = known[ravel(last[cube], side)]
    return np.where(np.isnan(values), flat.reshape(values.shape), values)
