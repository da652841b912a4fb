"""Images of meshes and points without a graphics library: samples of a surface, shaded, the nearest in front."""

from __future__ import annotations

import numpy as np

from datasets.shapes.geometry import sample_surface

Color = tuple[float, float, float]

SAMPLES = 400_000
COLOR: Color = (0.40, 0.60, 0.78)
LIGHT = np.array([0.35, -0.45, 0.82])
OVERSAMPLING = 2  # pixels per side that are averaged to one
FIELD_OF_VIEW = 1.5  # edge of the square that an image shows; only ends of the cube's diagonals may lie outside


def view_matrix(azimuth: float = 35.0, elevation: float = 25.0) -> np.ndarray:
    """Return the axes of an orthographic view, with z up.

    Args:
        azimuth: angle in degrees.
        elevation: angle in degrees.

    Returns:
        Rows (3, 3): unit vectors to the right, up and towards the viewer.
    """
    a, e = np.radians([azimuth, elevation])
    towards = np.array([np.cos(e) * np.sin(a), -np.cos(e) * np.cos(a), np.sin(e)])
    right = np.array([np.cos(a), np.sin(a), 0.0])
    return np.stack([right, np.cross(towards, right), towards])


def render_mesh(
    vertices: np.ndarray, faces: np.ndarray, size: int = 256, color: Color = COLOR, view: np.ndarray | None = None
) -> np.ndarray:
    """Render a mesh around 0. Both sides of a face look the same.

    Args:
        vertices: positions (V, 3).
        faces: vertex indices (F, 3).
        size: pixels per side.
        color: RGB in 0..1.
        view: axes of the view; None: those of `view_matrix`.

    Returns:
        RGBA image (size, size, 4) in 0..1.
    """
    if not len(faces):
        return np.zeros((size, size, 4))
    view = view_matrix() if view is None else view
    points, normals = sample_surface(vertices, faces, SAMPLES, np.random.default_rng(0))
    facing = normals @ view[2]
    normals = np.where(facing[:, None] < 0, -normals, normals)
    colors = shade(normals, color, view)
    thin, wide = (splat(points, colors, size, view, width) for width in (2, 3))
    return np.concatenate([wide[..., :3], thin[..., 3:]], axis=-1)  # the far side is covered, and no edge grows


def render_surface(
    points: np.ndarray, normals: np.ndarray, size: int = 256, color: Color = COLOR, view: np.ndarray | None = None
) -> np.ndarray:
    """Render samples of a closed surface without gaps.

    Args:
        points: samples (n, 3).
        normals: outward unit normals (n, 3).
        size: pixels per side.
        color: RGB in 0..1.
        view: axes of the view; None: those of `view_matrix`.

    Returns:
        RGBA image (size, size, 4) in 0..1.
    """
    view = view_matrix() if view is None else view
    width = max(2, round(4 * size * OVERSAMPLING / np.sqrt(len(points))))
    front = normals @ view[2] > 0
    return splat(points[front], shade(normals[front], color, view), size, view, width)


def render_points(
    points: np.ndarray, size: int = 256, color: Color = COLOR, view: np.ndarray | None = None, radius: float = 0.011
) -> np.ndarray:
    """Render points as balls.

    Args:
        points: points (n, 3).
        size: pixels per side.
        color: RGB in 0..1.
        view: axes of the view; None: those of `view_matrix`.
        radius: radius of the balls.

    Returns:
        RGBA image (size, size, 4) in 0..1.
    """
    view = view_matrix() if view is None else view
    pixels = size * OVERSAMPLING
    r = max(1, round(radius * pixels / FIELD_OF_VIEW))
    axis = np.arange(-r, r + 1) / r
    dx, dy = (grid.ravel() for grid in np.meshgrid(axis, axis))
    disc = dx**2 + dy**2 <= 1
    bulge = np.stack([dx, dy, np.sqrt(np.maximum(0, 1 - dx**2 - dy**2))], axis=1)[disc]
    balls = (points[:, None] + radius * bulge @ view).reshape(-1, 3)
    normals = np.tile(bulge @ view, (len(points), 1))
    return splat(balls, shade(normals, color, view), size, view)


def shade(normals: np.ndarray, color: Color, view: np.ndarray) -> np.ndarray:
    """Return colors (n, 3) under two lights: a fixed one from above and one from the viewer."""
    above = np.clip(normals @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
    ahead = np.clip(normals @ view[2], 0, 1)
    return np.clip((0.30 + 0.45 * above + 0.35 * ahead)[:, None] * np.asarray(color), 0, 1)


def splat(points: np.ndarray, colors: np.ndarray, size: int, view: np.ndarray, width: int = 2) -> np.ndarray:
    """Draw colored points as squares, the nearest in front.

    Args:
        points: points (n, 3).
        colors: RGB (n, 3) in 0..1.
        size: pixels per side.
        view: axes of the view.
        width: edge of a square in pixels of the oversampled image.

    Returns:
        RGBA image (size, size, 4) in 0..1.
    """
    pixels = size * OVERSAMPLING
    right, up, depth = (points @ view.T).T
    scale = pixels / FIELD_OF_VIEW
    order = np.argsort(depth)
    spread = np.arange(width)
    column = np.rint(pixels / 2 + right[order] * scale - width / 2).astype(int)[:, None] + np.tile(spread, width)
    row = np.rint(pixels / 2 - up[order] * scale - width / 2).astype(int)[:, None] + np.repeat(spread, width)
    visible = (column >= 0) & (column < pixels) & (row >= 0) & (row < pixels)
    owner = np.full(pixels * pixels, -1)
    owner[(row * pixels + column)[visible]] = np.broadcast_to(order[:, None], visible.shape)[visible]  # the last stays
    image = np.zeros((pixels * pixels, 4))
    image[owner >= 0, :3] = colors[owner[owner >= 0]]
    image[owner >= 0, 3] = 1
    fine = image.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 4)
    alpha = fine[..., 3:].mean((1, 3))
    rgb = fine[..., :3].mean((1, 3)) / np.maximum(alpha, 1e-9)
    return np.concatenate([rgb, alpha], axis=-1)
