"""Pictures of meshes and points without a graphics library: samples of a surface, shaded, the nearest in front."""

from __future__ import annotations

import numpy as np

from datasets.shapes.geometry import surface_points

SAMPLES = 400_000
COLOUR = (0.40, 0.60, 0.78)
LIGHT = np.array([0.35, -0.45, 0.82])
OVERSAMPLE = 2  # for smooth edges
FIELD = 1.5  # edge of what a picture shows; only the ends of the unit cube's diagonals may lie outside


def camera(azimuth: float = 35.0, elevation: float = 25.0) -> np.ndarray:
    """Rows: right, up and towards the viewer, unit vectors, z being up. Angles in degrees."""
    a, e = np.radians([azimuth, elevation])
    towards = np.array([np.cos(e) * np.sin(a), -np.cos(e) * np.cos(a), np.sin(e)])
    right = np.array([np.cos(a), np.sin(a), 0.0])
    return np.stack([right, np.cross(towards, right), towards])


def render_mesh(vertices: np.ndarray, faces: np.ndarray, size: int = 256, colour=COLOUR, view=None) -> np.ndarray:
    """(size, size, 4), RGBA in 0..1, of the space around 0. Both sides of a face are shown alike."""
    if not len(faces):
        return np.zeros((size, size, 4))
    view = camera() if view is None else view
    points, normals = surface_points(vertices, faces, SAMPLES, np.random.default_rng(0))
    facing = normals @ view[2]
    normals = np.where(facing[:, None] < 0, -normals, normals)
    colours = shade(normals, colour, view)
    thin, wide = (splat(points, colours, size, view, width) for width in (2, 3))
    return np.concatenate([wide[..., :3], thin[..., 3:]], axis=-1)  # no far side shines through, and no edge grows


def render_surface(points: np.ndarray, normals: np.ndarray, size: int = 256, colour=COLOUR, view=None) -> np.ndarray:
    """The same of samples of a closed surface, points and unit outward normals (n, 3), drawn without gaps."""
    view = camera() if view is None else view
    width = max(2, round(4 * size * OVERSAMPLE / np.sqrt(len(points))))
    ahead = normals @ view[2] > 0
    return splat(points[ahead], shade(normals[ahead], colour, view), size, view, width)


def render_points(points: np.ndarray, size: int = 256, colour=COLOUR, view=None, radius: float = 0.011) -> np.ndarray:
    """The same of loose points (n, 3), drawn as balls of that radius, the nearer ones darker."""
    view = camera() if view is None else view
    pixels = size * OVERSAMPLE
    r = max(1, round(radius * pixels / FIELD))
    axis = np.arange(-r, r + 1) / r
    dx, dy = (grid.ravel() for grid in np.meshgrid(axis, axis))
    on = dx**2 + dy**2 <= 1
    bulge = np.stack([dx, dy, np.sqrt(np.maximum(0, 1 - dx**2 - dy**2))], axis=1)[on]
    balls = (points[:, None] + radius * bulge @ view).reshape(-1, 3)
    normals = np.tile(bulge @ view, (len(points), 1))
    return splat(balls, shade(normals, colour, view), size, view)


def shade(normals: np.ndarray, colour, view: np.ndarray) -> np.ndarray:
    """Colours (n, 3): two lights, one from above that stays, one from the viewer."""
    above = np.clip(normals @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
    ahead = np.clip(normals @ view[2], 0, 1)
    return np.clip((0.30 + 0.45 * above + 0.35 * ahead)[:, None] * np.asarray(colour), 0, 1)


def splat(points: np.ndarray, colours: np.ndarray, size: int, view: np.ndarray, width: int = 2) -> np.ndarray:
    """Coloured points (n, 3) on a picture (size, size, 4), squares `width` fine pixels wide, the nearest in front."""
    pixels = size * OVERSAMPLE
    right, up, depth = (points @ view.T).T
    scale = pixels / FIELD
    order = np.argsort(depth)
    spread = np.arange(width)
    column = np.rint(pixels / 2 + right[order] * scale - width / 2).astype(int)[:, None] + np.tile(spread, width)
    row = np.rint(pixels / 2 - up[order] * scale - width / 2).astype(int)[:, None] + np.repeat(spread, width)
    seen = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    owner = np.full(pixels * pixels, -1)
    owner[(row * pixels + column)[seen]] = np.broadcast_to(order[:, None], seen.shape)[seen]  # the last one stays
    picture = np.zeros((pixels * pixels, 4))
    picture[owner >= 0, :3] = colours[owner[owner >= 0]]
    picture[owner >= 0, 3] = 1
    fine = picture.reshape(size, OVERSAMPLE, size, OVERSAMPLE, 4)
    alpha = fine[..., 3:].mean((1, 3))
    shown = fine[..., :3].mean((1, 3)) / np.maximum(alpha, 1e-9)
    return np.concatenate([shown, alpha], axis=-1)
