"""Images of triangle meshes: a small rasterizer with a depth buffer, white background, grey flat shading.

Cameras are those of Choy et al. (2016): 137 pixels per side, a lens of 35 mm on a sensor of 32 mm, seen from somewhat
above.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets.shapes.geometry import FloatArray, IntArray, area_normals, expand_counts

SIZE = 137  # pixels per side
FOCAL = SIZE * 35 / 32
ELEVATION = (25.0, 30.0)  # degrees above the horizon
DISTANCE = (1.6, 2.0)  # from the center of the unit cube, in its edges
OVERSAMPLING = 2  # pixels per side that are averaged to one
UP_AXES = ("x", "y", "z")
AMBIENT = 0.25  # share of ambient light; the rest comes from the camera


def random_camera(rng: np.random.Generator, up: str) -> FloatArray:
    """Draw a camera that looks at the origin.

    Args:
        rng: random generator.
        up: axis that points up, of `UP_AXES`.

    Returns:
        [R | t] (3, 4): R p + t is a point p of the unit cube in the frame of the camera: x right, y down, z ahead.
    """
    azimuth = rng.uniform(0, 2 * np.pi)
    elevation = np.radians(rng.uniform(*ELEVATION))
    axis = UP_AXES.index(up)
    back = np.insert(np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)]), axis, np.sin(elevation))
    right = np.cross(np.eye(3)[axis], back)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(right, back), -back])
    return np.column_stack([rotation, [0, 0, rng.uniform(*DISTANCE)]])


def intrinsics(size: int = SIZE) -> FloatArray:
    """Return the camera matrix K (3, 3): K (x, y, z) is z * (column, row, 1), in pixels of an image of side `size`."""
    focal = FOCAL * size / SIZE
    return np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])


def cameras_in_unit_cube(world: FloatArray, loc: FloatArray, scale: float) -> FloatArray:
    """Convert cameras of points of an original mesh to cameras of points of the unit cube.

    Distances in the frame of the camera become edges of the unit cube, whatever the unit of the mesh.

    Args:
        world: [R | t] (V, 3, 4) of each view, for points of the original mesh.
        loc: center (3,) of the original mesh: scale * point + loc is a point of the original mesh.
        scale: longest edge of the original mesh.

    Returns:
        [R | t] (V, 3, 4) for points of the unit cube.

    Raises:
        ValueError: if a camera does not have the center of the cube ahead of it, or its matrix is singular.
    """
    rotation, shift = world[:, :, :3], world[:, :, 3]
    moved = np.concatenate([rotation * scale, (rotation @ loc + shift)[:, :, None]], axis=2)
    unit = np.cbrt(np.abs(np.linalg.det(moved[:, :, :3])))
    for number, (size, depth) in enumerate(zip(unit, moved[:, 2, 3], strict=True)):
        if not size > 0 or not depth > 0:
            raise ValueError(f"camera {number} does not see the shape ahead of it")
    return moved / unit[:, None, None]


def render(vertices: FloatArray, faces: IntArray, camera: FloatArray, size: int = SIZE) -> NDArray[np.uint8]:
    """Render a mesh that lies in front of the camera.

    Args:
        vertices: positions (V, 3).
        faces: vertex indices (F, 3).
        camera: [R | t] (3, 4).
        size: pixels per side.

    Returns:
        Grey image (size, size); 255 is background.
    """
    fine = size * OVERSAMPLING
    positions = vertices @ camera[:, :3].T + camera[:, 3]
    corners = positions[faces]
    projected = corners @ intrinsics(fine).T
    pixels = projected[..., :2] / projected[..., 2:]
    owner, place, weights = _rasterize(pixels, fine)

    # 1 / depth is linear in the image; the largest is written last and stays.
    nearness = (weights / corners[owner, :, 2]).sum(1)
    order = np.argsort(nearness, kind="stable")
    normals = area_normals(positions, faces)
    centers = corners.mean(1)
    lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(centers, axis=1)
    facing = np.abs((normals * centers).sum(1)) / np.maximum(lengths, np.finfo(float).tiny)
    shade = AMBIENT + (1 - AMBIENT) * facing
    image = np.ones(fine * fine)
    image[place[order]] = 0.9 * shade[owner[order]]
    averaged = image.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean((1, 3))
    return (averaged * 255).round().astype(np.uint8)


def _rasterize(pixels: FloatArray, size: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Find the pixels whose centers triangles cover.

    Args:
        pixels: corners (F, 3, 2) of triangles, x right and y down.
        size: pixels per side.

    Returns:
        Triangle (n,) and pixel (n,) (row * size + column) of each pair, and barycentric weights (n, 3) of the center.
    """
    first = np.clip(np.ceil(pixels.min(1) - 0.5), 0, size).astype(np.int64)
    last = np.clip(np.floor(pixels.max(1) - 0.5), -1, size - 1).astype(np.int64)
    wide, high = np.maximum(last - first + 1, 0).T
    owner, place = expand_counts(wide * high)
    column = first[owner, 0] + place % wide[owner]
    row = first[owner, 1] + place // wide[owner]
    a, b, c = (pixels[:, i] for i in range(3))
    center = np.stack([column, row], 1) + 0.5

    def cross(u: FloatArray, v: FloatArray) -> FloatArray:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    area = cross(b - a, c - a)
    flat = np.abs(area) < 1e-12
    to_a, to_b, to_c = (corner[owner] - center for corner in (a, b, c))
    weights = np.stack([cross(to_b, to_c), cross(to_c, to_a), cross(to_a, to_b)], 1)
    weights /= np.where(flat, 1, area)[owner, None]
    kept = (weights >= 0).all(1) & ~flat[owner]
    return owner[kept], row[kept] * size + column[kept], weights[kept]
