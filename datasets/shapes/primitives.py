"""Simple bodies with exact formulas of their inside and their surface, which solids are put together of.

Arrays are float64; a body stands around the origin of its own frame, its axis along z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import elliprg

from datasets.shapes.geometry import Array

MORE = 1.25  # points drawn for each that is wanted, since some are thrown away


class Body(Protocol):
    """area: of its surface. `inside` (N, 3) -> (N,) bool, the surface included. `surface`: points drawn evenly from the
    surface, and unit normals outward, both (count, 3). `reach` (M, 3) -> (M,): how far it extends along each direction,
    the greatest p . d of its points p."""

    @property
    def area(self) -> float: ...
    def inside(self, points: Array) -> NDArray[np.bool_]: ...
    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]: ...
    def reach(self, directions: Array) -> Array: ...


def _sphere(count: int, drawn: np.random.Generator) -> Array:
    """Unit vectors in even directions, (count, 3)."""
    points = drawn.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _circle(count: int, drawn: np.random.Generator) -> Array:
    """(count, 2), even on the unit circle."""
    angle = drawn.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _accepted(
    count: int, draw: Callable[[int], tuple[Array, Array]], share: Callable[[Array], Array], drawn: np.random.Generator
) -> tuple[Array, Array]:
    """`count` of what `draw` gives (points, normals), each kept with the probability that `share` gives its points."""
    points, normals = np.empty((0, 3)), np.empty((0, 3))
    while len(points) < count:
        more, directions = draw(int(MORE * (count - len(points))) + 16)
        kept = drawn.uniform(size=len(more)) < share(more)
        points, normals = np.concatenate([points, more[kept]]), np.concatenate([normals, directions[kept]])
    return points[:count], normals[:count]


def _radius(points: Array) -> Array:
    return np.hypot(points[..., 0], points[..., 1])


@dataclass(frozen=True)
class _ThreeAxes:
    a: float
    b: float
    c: float

    @property
    def axes(self) -> Array:
        return np.array([self.a, self.b, self.c])


class Ellipsoid(_ThreeAxes):
    """a, b, c: half axes along x, y, z; equal ones make a ball."""

    @property
    def area(self) -> float:
        return float(4 * np.pi * self.axes.prod() * elliprg(*self.axes**-2.0))

    def inside(self, points: Array) -> NDArray[np.bool_]:
        return ((points / self.axes) ** 2).sum(1) <= 1

    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        def draw(count: int) -> tuple[Array, Array]:
            unit = _sphere(count, drawn)
            normals = unit / self.axes
            return unit * self.axes, normals / np.linalg.norm(normals, axis=1, keepdims=True)

        # A patch of the unit sphere is stretched by abc |unit / axes|.
        return _accepted(count, draw, lambda p: np.linalg.norm(p / self.axes**2, axis=1) * self.axes.min(), drawn)

    def reach(self, directions: Array) -> Array:
        return np.linalg.norm(directions * self.axes, axis=1)


class Box(_ThreeAxes):
    """a, b, c: half edges along x, y, z."""

    @property
    def area(self) -> float:
        return 8 * (self.a * self.b + self.b * self.c + self.c * self.a)

    def inside(self, points: Array) -> NDArray[np.bool_]:
        return (np.abs(points) <= self.axes).all(1)

    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        faces = self.axes.prod() / self.axes
        axis = drawn.choice(3, count, p=faces / faces.sum())
        sign = drawn.choice([-1.0, 1.0], count)
        points, normals = drawn.uniform(-1, 1, (count, 3)) * self.axes, np.zeros((count, 3))
        points[np.arange(count), axis] = sign * self.axes[axis]
        normals[np.arange(count), axis] = sign
        return points, normals

    def reach(self, directions: Array) -> Array:
        return np.abs(directions) @ self.axes


@dataclass(frozen=True)
class Cylinder:
    """radius, half: of its height."""

    radius: float
    half: float

    @property
    def area(self) -> float:
        return 2 * np.pi * self.radius * (self.radius + 2 * self.half)

    def inside(self, points: Array) -> NDArray[np.bool_]:
        return (_radius(points) <= self.radius) & (np.abs(points[:, 2]) <= self.half)

    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        circle, where = _circle(count, drawn), drawn.uniform(size=count)
        flat = where < self.radius / (self.radius + 2 * self.half)
        end = drawn.choice([-1.0, 1.0], count)
        far = np.where(flat, np.sqrt(drawn.uniform(size=count)), 1.0) * self.radius
        height = np.where(flat, end, drawn.uniform(-1, 1, count)) * self.half
        points = np.column_stack([circle * far[:, None], height])
        return points, np.column_stack([np.where(flat[:, None], 0.0, circle), np.where(flat, end, 0.0)])

    def reach(self, directions: Array) -> Array:
        return self.radius * _radius(directions) + self.half * np.abs(directions[:, 2])


@dataclass(frozen=True)
class Cone:
    """radius: of its base, at z = -half; half: of its height; the tip is at z = half."""

    radius: float
    half: float

    @property
    def slant(self) -> float:
        return float(np.hypot(self.radius, 2 * self.half))

    @property
    def area(self) -> float:
        return np.pi * self.radius * (self.radius + self.slant)

    def inside(self, points: Array) -> NDArray[np.bool_]:
        allowed = self.radius * (self.half - points[:, 2]) / (2 * self.half)
        return (_radius(points) <= allowed) & (points[:, 2] >= -self.half)

    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        circle, base = _circle(count, drawn), drawn.uniform(size=count) < self.radius / (self.radius + self.slant)
        far = np.sqrt(drawn.uniform(size=count))
        height = np.where(base, -1.0, 1 - 2 * far) * self.half
        side = np.column_stack([circle * 2 * self.half, np.full(count, self.radius)]) / self.slant
        points = np.column_stack([circle * (far * self.radius)[:, None], height])
        return points, np.where(base[:, None], [0.0, 0.0, -1.0], side)

    def reach(self, directions: Array) -> Array:
        rim = self.radius * _radius(directions) - self.half * directions[:, 2]
        return np.maximum(rim, self.half * directions[:, 2])


@dataclass(frozen=True)
class Capsule:
    """A cylinder with half a ball at either end. radius: of both; half: of the height of the cylinder."""

    radius: float
    half: float

    @property
    def area(self) -> float:
        return 4 * np.pi * self.radius * (self.radius + self.half)

    def inside(self, points: Array) -> NDArray[np.bool_]:
        beyond = np.maximum(np.abs(points[:, 2]) - self.half, 0)
        return np.hypot(_radius(points), beyond) <= self.radius

    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        normals = _sphere(count, drawn)
        side = drawn.uniform(size=count) < self.half / (self.radius + self.half)
        normals[side] = np.column_stack([_circle(side.sum(), drawn), np.zeros(side.sum())])
        along = np.where(side, drawn.uniform(-1, 1, count), np.sign(normals[:, 2])) * self.half
        return normals * self.radius + along[:, None] * [0.0, 0.0, 1.0], normals

    def reach(self, directions: Array) -> Array:
        return self.radius * np.linalg.norm(directions, axis=1) + self.half * np.abs(directions[:, 2])


@dataclass(frozen=True)
class Torus:
    """ring: distance of the middle of the tube from the axis; tube: its radius, less than `ring`."""

    ring: float
    tube: float

    @property
    def area(self) -> float:
        return 4 * np.pi**2 * self.ring * self.tube

    def inside(self, points: Array) -> NDArray[np.bool_]:
        return np.hypot(_radius(points) - self.ring, points[:, 2]) <= self.tube

    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        def draw(count: int) -> tuple[Array, Array]:
            around, across = _circle(count, drawn), _circle(count, drawn)
            normals = np.column_stack([around * across[:, :1], across[:, 1]])
            return np.column_stack([around, np.zeros(count)]) * self.ring + normals * self.tube, normals

        return _accepted(count, draw, lambda p: _radius(p) / (self.ring + self.tube), drawn)

    def reach(self, directions: Array) -> Array:
        return self.ring * _radius(directions) + self.tube * np.linalg.norm(directions, axis=1)
