"""Solids: bodies joined and hollowed out, of which inside and surface are known exactly. Arrays are float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datasets.shapes.bodies import MORE, Body, Box, Capsule, Cone, Cylinder, Ellipsoid, Torus
from datasets.shapes.geometry import Array, Indices, voxel_centres


@dataclass(frozen=True)
class Piece:
    """A body in the frame of a solid: turned by `turn` (3, 3), then moved to `at` (3,); taken away where `hole`."""

    body: Body
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: Array = field(default_factory=lambda: np.eye(3))
    hole: bool = False

    def inside(self, points: Array) -> NDArray[np.bool_]:
        return self.body.inside((points - self.at) @ self.turn)

    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        points, normals = self.body.surface(count, drawn)
        return points @ self.turn.T + self.at, normals @ self.turn.T

    def reach(self, directions: Array) -> Array:
        return self.body.reach(directions @ self.turn) + directions @ np.asarray(self.at)


@dataclass(frozen=True)
class Solid:
    """Pieces put together in their order: each is added to what is there, or taken away from it.

    A point of the solid's frame is scale * (point of the frame of the pieces) + shift.
    """

    pieces: tuple[Piece, ...]
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def _combined(self, inside: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        result = np.zeros_like(inside[0])
        for piece, here in zip(self.pieces, inside, strict=True):
            result = result & ~here if piece.hole else result | here
        return result

    def inside(self, points: Array) -> NDArray[np.bool_]:
        """(N, 3) -> (N,) bool."""
        own = (np.asarray(points, np.float64) - self.shift) / self.scale
        return self._combined([piece.inside(own) for piece in self.pieces])

    def surface(self, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        """Points drawn evenly from the surface, and unit normals outward: (count, 3) each.

        A point of a piece's surface is on the solid's if the solid there depends on which side of the piece it is.
        """
        areas = np.array([piece.body.area for piece in self.pieces])
        points, normals = np.empty((0, 3)), np.empty((0, 3))
        while len(points) < count:
            chosen = drawn.multinomial(int(MORE * (count - len(points))) + 16, areas / areas.sum())
            found = [self._on_surface(number, many, drawn) for number, many in enumerate(chosen)]
            order = drawn.permutation(sum(len(p) for p, _ in found))
            points = np.concatenate([points, np.concatenate([p for p, _ in found])[order]])
            normals = np.concatenate([normals, np.concatenate([n for _, n in found])[order]])
        return points[:count] * self.scale + self.shift, normals[:count]

    def _on_surface(self, number: int, count: int, drawn: np.random.Generator) -> tuple[Array, Array]:
        """Those of `count` even points of a piece's surface that are on the solid's, in the frame of the pieces."""
        points, normals = self.pieces[number].surface(count, drawn)
        inside = [piece.inside(points) for piece in self.pieces]
        inside[number] = np.ones(count, bool)
        within = self._combined(inside)
        inside[number] = np.zeros(count, bool)
        beyond = self._combined(inside)
        kept = within != beyond
        return points[kept], np.where(within[kept, None], normals[kept], -normals[kept])

    def mesh(self, resolution: int = 48) -> tuple[Array, Indices]:
        """Vertices (V, 3) and faces (F, 3) of about the surface, edges rounded; for pictures."""
        from scipy.ndimage import gaussian_filter
        from skimage.measure import marching_cubes

        around = resolution + 8  # voxels of which the middle `resolution` make the unit cube
        filled = self.inside(voxel_centres(around) * (around / resolution)).reshape((around,) * 3)
        smooth = gaussian_filter(filled.astype(np.float32), 1.0)
        vertices, faces, *_ = marching_cubes(smooth, 0.5, gradient_direction="ascent")
        return (vertices + 0.5 - around / 2) / resolution, faces.astype(np.int64)

    def bounds(self) -> tuple[Array, Array]:
        """The lowest and highest corner of the box around what is added, (3,) each; holes are not looked at."""
        directions = np.concatenate([-np.eye(3), np.eye(3)])
        reach = np.max([piece.reach(directions) for piece in self.pieces if not piece.hole], 0)
        low, high = -reach[:3], reach[3:]
        return low * self.scale + self.shift, high * self.scale + self.shift

    def normalised(self) -> Solid:
        """The same with its box around the origin and the longest edge of the box 1."""
        low, high = Solid(self.pieces).bounds()
        scale = 1 / (high - low).max()
        return Solid(self.pieces, float(scale), tuple((low + high) / -2 * scale))


def about_z(angle: float) -> Array:
    """The turn by `angle` (radians) about z, (3, 3)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


ALONG_X = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # turns z to x
ALONG_Y = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # turns z to y


def _ellipsoid(drawn: np.random.Generator) -> list[Piece]:
    return [Piece(Ellipsoid(*drawn.uniform(0.4, 1.0, 3)))]


def _box(drawn: np.random.Generator) -> list[Piece]:
    return [Piece(Box(*drawn.uniform(0.4, 1.0, 3)))]


def _cylinder(drawn: np.random.Generator) -> list[Piece]:
    return [Piece(Cylinder(drawn.uniform(0.4, 1.0), drawn.uniform(0.4, 1.0)))]


def _cone(drawn: np.random.Generator) -> list[Piece]:
    return [Piece(Cone(drawn.uniform(0.5, 1.0), drawn.uniform(0.5, 1.0)))]


def _torus(drawn: np.random.Generator) -> list[Piece]:
    return [Piece(Torus(1.0, drawn.uniform(0.25, 0.6)), turn=(np.eye(3), ALONG_X)[drawn.integers(2)])]


def _dumbbell(drawn: np.random.Generator) -> list[Piece]:
    left, right = drawn.uniform(0.4, 0.7, 2)
    apart = drawn.uniform(0.7, 1.1)
    ends = [Piece(Ellipsoid(size, size, size), (x, 0, 0)) for size, x in ((left, -apart), (right, apart))]
    return [*ends, Piece(Capsule(drawn.uniform(0.15, 0.35), apart), turn=ALONG_X)]


def _table(drawn: np.random.Generator) -> list[Piece]:
    length, width = drawn.uniform(0.6, 1.0, 2)
    height, thick, leg = drawn.uniform(0.4, 0.9), drawn.uniform(0.1, 0.2), drawn.uniform(0.1, 0.2)
    legs = [Piece(Box(leg, leg, height), (x * (length - leg), y * (width - leg), 0)) for x in (-1, 1) for y in (-1, 1)]
    return [Piece(Box(length, width, thick), (0, 0, height)), *legs]


def _cup(drawn: np.random.Generator) -> list[Piece]:
    radius, half, wall = drawn.uniform(0.5, 0.9), drawn.uniform(0.6, 1.0), drawn.uniform(0.12, 0.2)
    handle = Piece(Torus(half * 0.55, wall * 0.8), (radius, 0, 0), ALONG_Y)
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


def random_solid(category: str, drawn: np.random.Generator) -> Solid:
    """A solid of random proportions, turned at random about z, in the unit cube around the origin."""
    pieces = CATEGORIES[category](drawn)
    turn = about_z(drawn.uniform(0, 2 * np.pi))
    turned = tuple(
        Piece(piece.body, tuple(turn @ np.asarray(piece.at)), turn @ piece.turn, piece.hole) for piece in pieces
    )
    return Solid(turned).normalised()
