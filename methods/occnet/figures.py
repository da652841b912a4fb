"""Figures of a run: reconstructions beside what was seen and what is true, how MISE refines, slices of the field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from methods.occnet.evaluation import Reconstruction, Truth
from methods.occnet.mise import BOX, Grid
from methods.occnet.render import render_mesh, render_points, render_surface
from methods.occnet.surface import Mesh, blocky

SEEN, FOUND, TRUE = (0.93, 0.62, 0.20), (0.40, 0.60, 0.78), (0.55, 0.70, 0.50)
CELL = 1.1  # inches of a picture


class Shown(NamedTuple):
    """A shape that the figures show. inputs: what the encoder saw of it, without the batch's axis."""

    name: str
    inputs: np.ndarray
    found: Reconstruction
    true: Truth


def reconstructions(shapes: Sequence[Shown]) -> Any:
    """A row a shape: its input, where that can be drawn, the reconstruction, the true shape."""
    seen = [picture_of(shape.inputs) for shape in shapes]
    columns = (["input"] if seen[0] is not None else []) + ["reconstruction", "true shape"]
    rows = []
    for first, shape in zip(seen, shapes, strict=True):
        true = render_surface(shape.true.surface, shape.true.normals, colour=TRUE)
        rows.append(cropped([*([first] if first is not None else []), drawn(shape.found), true]))
    return gallery(rows, columns, [shape.name for shape in shapes])


def cropped(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Pictures of one size without the margin, square, that none of them uses; others (an input image) as they are."""
    drawings = [picture for picture in pictures if picture.shape[-1] == 4]
    used = np.any([picture[..., 3] > 0 for picture in drawings], axis=0)
    size = len(used)
    off = np.abs(np.argwhere(used) - (size - 1) / 2).max(initial=0)
    margin = max(0, int((size - 1) / 2 - off) - 4)
    inner = slice(margin, size - margin)
    return [picture[inner, inner] if picture.shape[-1] == 4 else picture for picture in pictures]


def drawn(found: Reconstruction) -> np.ndarray:
    if found.mesh is None:
        return render_points(found.points, colour=FOUND)
    return render_mesh(found.mesh.vertices, found.mesh.faces, colour=FOUND)


def picture_of(inputs: np.ndarray) -> np.ndarray | None:
    """Of a cloud (n, 3), voxels (R, R, R) or an image (3, H, W); None of anything else."""
    if inputs.ndim == 2:
        return render_points(inputs, colour=SEEN)
    if inputs.ndim == 3 and inputs.shape[0] == 3:
        return inputs.transpose(1, 2, 0).clip(0, 1)
    if inputs.ndim == 3:
        mesh = blocky(inputs > 0.5)
        return render_mesh(mesh.vertices, mesh.faces, colour=SEEN)
    return None


def gallery_of(meshes: Sequence[Mesh]) -> Any:
    """Meshes, four in a row."""
    pictures = [render_mesh(mesh.vertices, mesh.faces, colour=FOUND) for mesh in meshes]
    return gallery([pictures[i : i + 4] for i in range(0, len(pictures), 4)], [], [])


def gallery(rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str], names: Sequence[str]) -> Any:
    import matplotlib.pyplot as plt

    width = max(map(len, rows))
    size = (CELL * width + (0.2 if names else 0), CELL * len(rows) + 0.15)
    figure, axes = plt.subplots(len(rows), width, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for row, pictures in zip(axes, rows, strict=True):
        for ax, picture in zip(row, pictures, strict=False):
            ax.imshow(picture, interpolation="antialiased")
    for ax, title in zip(axes[0], columns, strict=False):
        ax.set_title(title, fontsize=7)
    for row, name in zip(axes, names, strict=False):
        row[0].set_ylabel(name, fontsize=5)
    return figure


def refinement(grid: Grid, mesh: Mesh) -> Any:
    """The cubes that each level of MISE splits, and the mesh in the end."""
    panels = []
    edges = sorted({edge for edge, _ in grid.steps}, reverse=True)
    for edge in edges:
        cubes = np.concatenate([lower for of, lower in grid.steps if of == edge]) // edge
        occupied = np.zeros((grid.resolution // edge,) * 3, dtype=bool)
        occupied[tuple(cubes.T)] = True
        boundary = blocky(occupied, BOX)
        panels.append(render_mesh(boundary.vertices, boundary.faces, colour=SEEN))
    panels.append(render_mesh(mesh.vertices, mesh.faces, colour=FOUND))
    titles = [f"split at {grid.resolution // edge}$^3$" for edge in edges]
    figure = gallery([panels], [*titles, f"mesh at {grid.resolution}$^3$"], [])
    share = 100 * grid.evaluated / grid.values.size
    figure.supxlabel(f"{grid.evaluated:,} of {grid.values.size:,} points evaluated ({share:.1f} %)", fontsize=6)
    return figure


def slices(grid: Grid, level: float) -> Any:
    """Logits on the box's three middle planes, as MISE knows them: away from the surface they are not refined."""
    import matplotlib.pyplot as plt

    middle = grid.resolution // 2
    limit = max(1e-6, float(np.abs(grid.values - level).max()))
    figure, axes = plt.subplots(1, 3, figsize=(3.4, 1.35), layout="constrained")
    extent = (-BOX / 2, BOX / 2, -BOX / 2, BOX / 2)
    for ax, axis, (a, b) in zip(axes, range(3), ("yz", "xz", "xy"), strict=True):
        plane = grid.values.take(middle, axis=axis).T - level
        image = ax.imshow(plane, origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
        if plane.min() < 0 < plane.max():
            ax.contour(plane, levels=[0], extent=extent, colors="black", linewidths=0.7)
        ax.set(xlabel=a, ylabel=b, xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
    figure.colorbar(image, ax=axes, shrink=0.6, label="logit - threshold")
    return figure


def by_resolution(means: dict[str, float], resolutions: Sequence[int]) -> Any:
    """IoU of the meshes of a grid's values at several resolutions, and of so many voxels of the true shapes.

    means: the test's metrics.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(3.4, 2.0), layout="constrained")
    for key, label, marker in (("iou", "network", "o"), ("voxel_iou", "voxels of the true shapes", "s")):
        values = [means[f"test/{key}_at_{n}"] for n in resolutions]
        axes.plot(resolutions, values, marker=marker, markersize=3, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(resolutions, [str(n) for n in resolutions])
    axes.set(xlabel="resolution", ylabel="IoU", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
