"""Primitive solids with closed formulas of their inside and their surface, from which solids are composed (`csg`).

Arrays are float64. A primitive stands around the origin of its own frame, its axis along z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import elliprg

from datasets.shapes.geometry import BoolArray, FloatArray

OVERSAMPLING = 1.25  # candidates drawn per wanted point, since some are rejected


class Primitive(Protocol):
    """Solid with closed formulas."""

    @property
    def area(self) -> float:
        """Area of the surface."""

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie inside or on the surface: (N,)."""

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface, and return them with outward unit normals, (count, 3) each."""

    def support(self, directions: FloatArray) -> FloatArray:
        """Return the support function: the largest p . d over the points p of the solid, for directions d (M, 3)."""


def _unit_vectors(count: int, rng: np.random.Generator) -> FloatArray:
    """Draw unit vectors (count, 3) uniformly from the sphere."""
    points = rng.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _unit_circle(count: int, rng: np.random.Generator) -> FloatArray:
    """Draw points (count, 2) uniformly from the unit circle."""
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _rejection_sample(
    count: int,
    draw: Callable[[int], tuple[FloatArray, FloatArray]],
    acceptance: Callable[[FloatArray], FloatArray],
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Draw points and normals, each kept with a probability that depends on the point.

    Args:
        count: number of points that are returned.
        draw: function from a number to so many points and normals.
        acceptance: function from points to the probabilities with which they are kept.
        rng: random generator.
    """
    points, normals = np.empty((0, 3)), np.empty((0, 3))
    while len(points) < count:
        more, directions = draw(int(OVERSAMPLING * (count - len(points))) + 16)
        kept = rng.uniform(size=len(more)) < acceptance(more)
        points, normals = np.concatenate([points, more[kept]]), np.concatenate([normals, directions[kept]])
    return points[:count], normals[:count]


def _radius(points: FloatArray) -> FloatArray:
    return np.hypot(points[..., 0], points[..., 1])


@dataclass(frozen=True)
class _ThreeAxes:
    a: float
    b: float
    c: float

    @property
    def axes(self) -> FloatArray:
        """Return a, b and c as an array."""
        return np.array([self.a, self.b, self.c])


class Ellipsoid(_ThreeAxes):
    """Ellipsoid.

    Args:
        a: half axis along x.
        b: half axis along y.
        c: half axis along z.
    """

    @property
    def area(self) -> float:
        """Return the area of the surface."""
        return float(4 * np.pi * self.axes.prod() * elliprg(*self.axes**-2.0))

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie inside or on the surface: (N,)."""
        return ((points / self.axes) ** 2).sum(1) <= 1

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface, with outward unit normals: (count, 3) each."""

        def draw(count: int) -> tuple[FloatArray, FloatArray]:
            unit = _unit_vectors(count, rng)
            normals = unit / self.axes
            return unit * self.axes, normals / np.linalg.norm(normals, axis=1, keepdims=True)

        # The map to the ellipsoid stretches a patch of the unit sphere by abc |unit / axes|.
        return _rejection_sample(count, draw, lambda p: np.linalg.norm(p / self.axes**2, axis=1) * self.axes.min(), rng)

    def support(self, directions: FloatArray) -> FloatArray:
        """Return the largest p . d over the points p of the solid, for directions d (M, 3): (M,)."""
        return np.linalg.norm(directions * self.axes, axis=1)


class Box(_ThreeAxes):
    """Box.

    Args:
        a: half edge along x.
        b: half edge along y.
        c: half edge along z.
    """

    @property
    def area(self) -> float:
        """Return the area of the surface."""
        return 8 * (self.a * self.b + self.b * self.c + self.c * self.a)

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie inside or on the surface: (N,)."""
        return np.asarray((np.abs(points) <= self.axes).all(1))

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface, with outward unit normals: (count, 3) each."""
        faces = self.axes.prod() / self.axes
        axis = rng.choice(3, count, p=faces / faces.sum())
        sign = rng.choice([-1.0, 1.0], count)
        points, normals = rng.uniform(-1, 1, (count, 3)) * self.axes, np.zeros((count, 3))
        points[np.arange(count), axis] = sign * self.axes[axis]
        normals[np.arange(count), axis] = sign
        return points, normals

    def support(self, directions: FloatArray) -> FloatArray:
        """Return the largest p . d over the points p of the solid, for directions d (M, 3): (M,)."""
        return np.abs(directions) @ self.axes


@dataclass(frozen=True)
class Cylinder:
    """Cylinder.

    Args:
        radius: radius.
        half: half of the height.
    """

    radius: float
    half: float

    @property
    def area(self) -> float:
        """Return the area of the surface."""
        return 2 * np.pi * self.radius * (self.radius + 2 * self.half)

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie inside or on the surface: (N,)."""
        return (_radius(points) <= self.radius) & (np.abs(points[:, 2]) <= self.half)

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface, with outward unit normals: (count, 3) each."""
        circle, where = _unit_circle(count, rng), rng.uniform(size=count)
        flat = where < self.radius / (self.radius + 2 * self.half)
        end = rng.choice([-1.0, 1.0], count)
        far = np.where(flat, np.sqrt(rng.uniform(size=count)), 1.0) * self.radius
        height = np.where(flat, end, rng.uniform(-1, 1, count)) * self.half
        points = np.column_stack([circle * far[:, None], height])
        return points, np.column_stack([np.where(flat[:, None], 0.0, circle), np.where(flat, end, 0.0)])

    def support(self, directions: FloatArray) -> FloatArray:
        """Return the largest p . d over the points p of the solid, for directions d (M, 3): (M,)."""
        return self.radius * _radius(directions) + self.half * np.abs(directions[:, 2])


@dataclass(frozen=True)
class Cone:
    """Cone with its tip at z = half.

    Args:
        radius: radius of the base at z = -half.
        half: half of the height.
    """

    radius: float
    half: float

    @property
    def slant(self) -> float:
        """Return the length of the side from the rim to the tip."""
        return float(np.hypot(self.radius, 2 * self.half))

    @property
    def area(self) -> float:
        """Return the area of the surface."""
        return np.pi * self.radius * (self.radius + self.slant)

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie inside or on the surface: (N,)."""
        allowed = self.radius * (self.half - points[:, 2]) / (2 * self.half)
        return (_radius(points) <= allowed) & (points[:, 2] >= -self.half)

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface, with outward unit normals: (count, 3) each."""
        circle, base = _unit_circle(count, rng), rng.uniform(size=count) < self.radius / (self.radius + self.slant)
        far = np.sqrt(rng.uniform(size=count))
        height = np.where(base, -1.0, 1 - 2 * far) * self.half
        side = np.column_stack([circle * 2 * self.half, np.full(count, self.radius)]) / self.slant
        points = np.column_stack([circle * (far * self.radius)[:, None], height])
        return points, np.where(base[:, None], [0.0, 0.0, -1.0], side)

    def support(self, directions: FloatArray) -> FloatArray:
        """Return the largest p . d over the points p of the solid, for directions d (M, 3): (M,)."""
        rim = self.radius * _radius(directions) - self.half * directions[:, 2]
        return np.maximum(rim, self.half * directions[:, 2])


@dataclass(frozen=True)
class Capsule:
    """Cylinder with half a ball at either end.

    Args:
        radius: radius of the cylinder and the balls.
        half: half of the height of the cylinder.
    """

    radius: float
    half: float

    @property
    def area(self) -> float:
        """Return the area of the surface."""
        return 4 * np.pi * self.radius * (self.radius + self.half)

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie inside or on the surface: (N,)."""
        beyond = np.maximum(np.abs(points[:, 2]) - self.half, 0)
        return np.hypot(_radius(points), beyond) <= self.radius

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface, with outward unit normals: (count, 3) each."""
        normals = _unit_vectors(count, rng)
        side = rng.uniform(size=count) < self.half / (self.radius + self.half)
        normals[side] = np.column_stack([_unit_circle(side.sum(), rng), np.zeros(side.sum())])
        along = np.where(side, rng.uniform(-1, 1, count), np.sign(normals[:, 2])) * self.half
        return normals * self.radius + along[:, None] * [0.0, 0.0, 1.0], normals

    def support(self, directions: FloatArray) -> FloatArray:
        """Return the largest p . d over the points p of the solid, for directions d (M, 3): (M,)."""
        return self.radius * np.linalg.norm(directions, axis=1) + self.half * np.abs(directions[:, 2])


@dataclass(frozen=True)
class Torus:
    """Torus.

    Args:
        ring: distance of the center of the tube from the axis.
        tube: radius of the tube, less than `ring`.
    """

    ring: float
    tube: float

    @property
    def area(self) -> float:
        """Return the area of the surface."""
        return 4 * np.pi**2 * self.ring * self.tube

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie inside or on the surface: (N,)."""
        return np.hypot(_radius(points) - self.ring, points[:, 2]) <= self.tube

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface, with outward unit normals: (count, 3) each."""

        def draw(count: int) -> tuple[FloatArray, FloatArray]:
            around, across = _unit_circle(count, rng), _unit_circle(count, rng)
            normals = np.column_stack([around * across[:, :1], across[:, 1]])
            return np.column_stack([around, np.zeros(count)]) * self.ring + normals * self.tube, normals

        return _rejection_sample(count, draw, lambda p: _radius(p) / (self.ring + self.tube), rng)

    def support(self, directions: FloatArray) -> FloatArray:
        """Return the largest p . d over the points p of the solid, for directions d (M, 3): (M,)."""
        return self.ring * _radius(directions) + self.tube * np.linalg.norm(directions, axis=1)
