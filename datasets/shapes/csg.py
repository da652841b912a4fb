"""Constructive solid geometry: unions and differences of primitives with exact inside and surface, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets.shapes.geometry import BoolArray, FloatArray, IntArray, voxel_centers
from datasets.shapes.primitives import (
    OVERSAMPLING,
    Box,
    Capsule,
    Cone,
    Cylinder,
    Ellipsoid,
    Primitive,
    Torus,
)


@dataclass(frozen=True)
class Piece:
    """Primitive in the frame of a solid, added to it or subtracted from it.

    Args:
        primitive: primitive in its own frame.
        at: position (3,) of its origin, after the rotation.
        rotation: rotation matrix (3, 3).
        hole: subtract the primitive.
    """

    primitive: Primitive
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: FloatArray = field(default_factory=lambda: np.eye(3))
    hole: bool = False

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie in the primitive: (N,)."""
        return self.primitive.contains((points - self.at) @ self.rotation)

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface of the primitive, with outward unit normals: (count, 3) each."""
        points, normals = self.primitive.sample_surface(count, rng)
        return points @ self.rotation.T + self.at, normals @ self.rotation.T

    def support(self, directions: FloatArray) -> FloatArray:
        """Return the largest p . d over the points p of the primitive, for directions d (M, 3): (M,)."""
        return self.primitive.support(directions @ self.rotation) + directions @ np.asarray(self.at)


@dataclass(frozen=True)
class Solid:
    """Pieces combined in their order: each is added to those before it, or subtracted from them.

    A point of the frame of the solid is scale * (point of the frame of the pieces) + shift.

    Args:
        pieces: pieces.
        scale: scale of the frame.
        shift: shift (3,) of the frame.
    """

    pieces: tuple[Piece, ...]
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def _combine(self, inside: Sequence[BoolArray]) -> BoolArray:
        """Combine the occupancy (N,) of each piece to that of the solid."""
        result = np.zeros_like(inside[0])
        for piece, own in zip(self.pieces, inside, strict=True):
            result = result & ~own if piece.hole else result | own
        return result

    def contains(self, points: FloatArray) -> BoolArray:
        """Return whether points (N, 3) lie inside: (N,)."""
        own = (np.asarray(points, np.float64) - self.shift) / self.scale
        return self._combine([piece.contains(own) for piece in self.pieces])

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw points uniformly from the surface, with outward unit normals: (count, 3) each.

        A point on the surface of a piece is on that of the solid if occupancy there depends on the piece.
        """
        areas = np.array([piece.primitive.area for piece in self.pieces])
        points, normals = np.empty((0, 3)), np.empty((0, 3))
        while len(points) < count:
            chosen = rng.multinomial(int(OVERSAMPLING * (count - len(points))) + 16, areas / areas.sum())
            samples = [self._sample_piece(number, many, rng) for number, many in enumerate(chosen)]
            order = rng.permutation(sum(len(p) for p, _ in samples))
            points = np.concatenate([points, np.concatenate([p for p, _ in samples])[order]])
            normals = np.concatenate([normals, np.concatenate([n for _, n in samples])[order]])
        return points[:count] * self.scale + self.shift, normals[:count]

    def _sample_piece(self, number: int, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Draw `count` points from the surface of a piece and return those on that of the solid, in its own frame."""
        points, normals = self.pieces[number].sample_surface(count, rng)
        inside = [piece.contains(points) for piece in self.pieces]
        inside[number] = np.ones(count, bool)
        within = self._combine(inside)
        inside[number] = np.zeros(count, bool)
        beyond = self._combine(inside)
        kept = within != beyond
        return points[kept], np.where(within[kept, None], normals[kept], -normals[kept])

    def mesh(self, resolution: int = 48) -> tuple[FloatArray, IntArray]:
        """Return an approximate mesh with rounded edges, for images.

        Args:
            resolution: voxels per axis of the unit cube.

        Returns:
            Vertices (V, 3) and faces (F, 3).
        """
        from scipy.ndimage import gaussian_filter
        from skimage.measure import marching_cubes

        padded = resolution + 8  # the inner `resolution` voxels make the unit cube
        filled = self.contains(voxel_centers(padded) * (padded / resolution)).reshape((padded,) * 3)
        smooth = gaussian_filter(filled.astype(np.float32), 1.0)
        vertices, faces, *_ = marching_cubes(smooth, 0.5, gradient_direction="ascent")
        return (vertices + 0.5 - padded / 2) / resolution, faces.astype(np.int64)

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the lowest and the highest corner, (3,) each, of the box around the pieces that are no holes."""
        directions = np.concatenate([-np.eye(3), np.eye(3)])
        extent = np.max([piece.support(directions) for piece in self.pieces if not piece.hole], 0)
        low, high = -extent[:3], extent[3:]
        return low * self.scale + self.shift, high * self.scale + self.shift

    def normalized(self) -> Solid:
        """Return the solid moved and scaled so that its box is around the origin and has longest edge 1."""
        low, high = Solid(self.pieces).bounds()
        scale = 1 / (high - low).max()
        x, y, z = (low + high) / -2 * scale
        return Solid(self.pieces, float(scale), (x, y, z))


def rotation_about_z(angle: float) -> FloatArray:
    """Return the rotation matrix (3, 3) about z by `angle` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


Z_TO_X = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
Z_TO_Y = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def _ellipsoid(rng: np.random.Generator) -> list[Piece]:
    return [Piece(Ellipsoid(*rng.uniform(0.4, 1.0, 3)))]


def _box(rng: np.random.Generator) -> list[Piece]:
    return [Piece(Box(*rng.uniform(0.4, 1.0, 3)))]


def _cylinder(rng: np.random.Generator) -> list[Piece]:
    return [Piece(Cylinder(rng.uniform(0.4, 1.0), rng.uniform(0.4, 1.0)))]


def _cone(rng: np.random.Generator) -> list[Piece]:
    return [Piece(Cone(rng.uniform(0.5, 1.0), rng.uniform(0.5, 1.0)))]


def _torus(rng: np.random.Generator) -> list[Piece]:
    return [Piece(Torus(1.0, rng.uniform(0.25, 0.6)), rotation=(np.eye(3), Z_TO_X)[rng.integers(2)])]


def _dumbbell(rng: np.random.Generator) -> list[Piece]:
    left, right = rng.uniform(0.4, 0.7, 2)
    distance = rng.uniform(0.7, 1.1)
    ends = [Piece(Ellipsoid(size, size, size), (x, 0, 0)) for size, x in ((left, -distance), (right, distance))]
    return [*ends, Piece(Capsule(rng.uniform(0.15, 0.35), distance), rotation=Z_TO_X)]


def _table(rng: np.random.Generator) -> list[Piece]:
    length, width = rng.uniform(0.6, 1.0, 2)
    height, thickness, leg = rng.uniform(0.4, 0.9), rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.2)
    legs = [Piece(Box(leg, leg, height), (x * (length - leg), y * (width - leg), 0)) for x in (-1, 1) for y in (-1, 1)]
    return [Piece(Box(length, width, thickness), (0, 0, height)), *legs]


def _cup(rng: np.random.Generator) -> list[Piece]:
    radius, half, wall = rng.uniform(0.5, 0.9), rng.uniform(0.6, 1.0), rng.uniform(0.12, 0.2)
    handle = Piece(Torus(half * 0.55, wall * 0.8), (radius, 0, 0), Z_TO_Y)
    return [
        Piece(Cylinder(radius, half)),
        handle,
        Piece(Cylinder(radius - wall, half), (0, 0, 2 * wall), hole=True),
    ]


CATEGORIES: dict[str, Callable[[np.random.Generator], list[Piece]]] = {
    "box": _box,
    "cone": _cone,
    "cup": _cup,
    "cylinder": _cylinder,
    "dumbbell": _dumbbell,
    "ellipsoid": _ellipsoid,
    "table": _table,
    "torus": _torus,
}


def random_solid(category: str, rng: np.random.Generator) -> Solid:
    """Return a solid of random proportions, rotated at random about z, in the unit cube around the origin.

    Args:
        category: key of `CATEGORIES`.
        rng: random generator.
    """
    pieces = CATEGORIES[category](rng)
    rotation = rotation_about_z(rng.uniform(0, 2 * np.pi))
    rotated = []
    for piece in pieces:
        x, y, z = rotation @ np.asarray(piece.at)
        rotated.append(Piece(piece.primitive, (x, y, z), rotation @ piece.rotation, piece.hole))
    return Solid(tuple(rotated)).normalized()
