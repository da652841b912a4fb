"""Solids with exact formulas: simple bodies joined and hollowed out, of which inside and surface are known exactly.

Arrays are float64; a body stands around the origin of its own frame, its axis along z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import elliprg

from datasets.shapes.geometry import Array, Indices, voxel_centres

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
class Ellipsoid:
    """a, b, c: half axes along x, y, z; equal ones make a ball."""

    a: float
    b: float
    c: float

    @property
    def axes(self) -> Array:
        return np.array([self.a, self.b, self.c])

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


@dataclass(frozen=True)
class Box:
    """a, b, c: half edges along x, y, z."""

    a: float
    b: float
    c: float

    @property
    def axes(self) -> Array:
        return np.array([self.a, self.b, self.c])

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
