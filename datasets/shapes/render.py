"""Pictures of triangle meshes: a small rasteriser with a depth buffer, white background, grey flat shading.

Cameras as those of Choy et al. (2016): 137 pixels a side, a lens of 35 mm before 32 mm of film, from somewhat above.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.shapes.geometry import Array, Indices, area_normals, expand

SIZE = 137
FOCAL = SIZE * 35 / 32
ELEVATION = (25.0, 30.0)  # degrees above the horizon
DISTANCE = (1.6, 2.0)  # from the middle of the unit cube, in its edges
FINER = 2  # pixels a side that are averaged to one
UP = ("x", "y", "z")
AMBIENT = 0.25  # share of the light that comes from everywhere; the rest comes from the camera


def random_camera(drawn: np.random.Generator, up: str) -> Array:
    """(3, 4): [R | t]; R p + t is a point p of the unit cube seen by the camera: x right, y down, z ahead.

    up: the axis of the cube that points up, of `UP`.
    """
    azimuth = drawn.uniform(0, 2 * np.pi)
    elevation = np.radians(drawn.uniform(*ELEVATION))
    axis = "xyz".index(up)
    back = np.insert(np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)]), axis, np.sin(elevation))
    right = np.cross(np.eye(3)[axis], back)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(right, back), -back])
    return np.column_stack([rotation, [0, 0, drawn.uniform(*DISTANCE)]])


def intrinsics(size: int = SIZE) -> Array:
    """(3, 3): K (x, y, z) is z * (pixel from the left, pixel from the top, 1)."""
    focal = FOCAL * size / SIZE
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])


def in_unit_cube(world: Array, loc: Array, scale: float) -> Array:
    """Cameras (V, 3, 4) of points of an original mesh -> of points of the unit cube, scale * point + loc of the former.

    What they see is measured in edges of the cube, whatever unit the mesh had. Raises ValueError for a camera that has
    the middle of the cube not ahead of it, or sees space flat.
    """
    turn, shift = world[:, :, :3], world[:, :, 3]
    moved = np.concatenate([turn * scale, (turn @ loc + shift)[:, :, None]], axis=2)
    unit = np.cbrt(np.abs(np.linalg.det(moved[:, :, :3])))
    for number, (size, depth) in enumerate(zip(unit, moved[:, 2, 3], strict=True)):
        if not size > 0 or not depth > 0:
            raise ValueError(f"camera {number} does not see the shape ahead of it")
    return moved / unit[:, None, None]


def render(vertices: Array, faces: Indices, camera: Array, size: int = SIZE) -> NDArray[np.uint8]:
    """A picture (size, size) of a mesh all of which is before the camera (3, 4); 255: nothing is seen there."""
    fine = size * FINER
    seen = vertices @ camera[:, :3].T + camera[:, 3]
    corners = seen[faces]
    projected = corners @ intrinsics(fine).T
    pixels = projected[..., :2] / projected[..., 2:]
    owner, place, weights = _cover(pixels, fine)

    # 1 / depth is linear in the picture, and the greatest comes last and stays.
    nearness = (weights / corners[owner, :, 2]).sum(1)
    order = np.argsort(nearness, kind="stable")
    normals = area_normals(seen, faces)
    middle = corners.mean(1)
    lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(middle, axis=1)
    facing = np.abs((normals * middle).sum(1)) / np.maximum(lengths, np.finfo(float).tiny)
    shade = AMBIENT + (1 - AMBIENT) * facing
    picture = np.ones(fine * fine)
    picture[place[order]] = 0.9 * shade[owner[order]]
    averaged = picture.reshape(size, FINER, size, FINER).mean((1, 3))
    return (averaged * 255).round().astype(np.uint8)


def _cover(pixels: Array, size: int) -> tuple[Indices, Indices, Array]:
    """Triangles (F, 3, 2), x right and y down -> pairs: triangle, pixel (row * size + column) whose middle it covers.

    Also the barycentric weights of that middle, (pairs, 3).
    """
    first = np.clip(np.ceil(pixels.min(1) - 0.5), 0, size).astype(np.int64)
    last = np.clip(np.floor(pixels.max(1) - 0.5), -1, size - 1).astype(np.int64)
    wide, high = np.maximum(last - first + 1, 0).T
    owner, place = expand(wide * high)
    column = first[owner, 0] + place % wide[owner]
    row = first[owner, 1] + place // wide[owner]
    a, b, c = (pixels[:, i] for i in range(3))
    middle = np.stack([column, row], 1) + 0.5

    def turned(u: Array, v: Array) -> Array:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    area = turned(b - a, c - a)
    flat = np.abs(area) < 1e-12
    to_a, to_b, to_c = (corner[owner] - middle for corner in (a, b, c))
    weights = np.stack([turned(to_b, to_c), turned(to_c, to_a), turned(to_a, to_b)], 1)
    weights /= np.where(flat, 1, area)[owner, None]
    kept = (weights >= 0).all(1) & ~flat[owner]
    return owner[kept], row[kept] * size + column[kept], weights[kept]
