"""Figures of a run: reconstructions beside inputs and true shapes, the refinement of MISE, slices of the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from methods.occnet.evaluation import GroundTruth, Reconstruction
from methods.occnet.mesh import Mesh, voxel_mesh
from methods.occnet.mise import BOX, Grid
from methods.occnet.render import render_mesh, render_points, render_surface
from methods.plots import COLUMN_WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INPUT_COLOR, PREDICTION_COLOR, TRUTH_COLOR = (0.93, 0.62, 0.20), (0.40, 0.60, 0.78), (0.55, 0.70, 0.50)
CELL = 1.1  # inches per image
PER_ROW = 4  # meshes per row


class ShownShape(NamedTuple):
    """A shape in the figures.

    Args:
        name: name of the shape.
        inputs: input of the encoder, without the axis of the batch.
        prediction: reconstruction.
        truth: true shape.
    """

    name: str
    inputs: np.ndarray
    prediction: Reconstruction
    truth: GroundTruth


def plot_reconstructions(shapes: Sequence[ShownShape]) -> Figure:
    """Plot one row per shape: its input, if that can be drawn, the reconstruction and the true shape."""
    inputs = [render_input(shape.inputs) for shape in shapes]
    columns = (["input"] if inputs[0] is not None else []) + ["reconstruction", "true shape"]
    rows = []
    for own_input, shape in zip(inputs, shapes, strict=True):
        truth = render_surface(shape.truth.surface, shape.truth.normals, color=TRUTH_COLOR)
        images = [] if own_input is None else [own_input]
        rows.append(crop_margins([*images, render_reconstruction(shape.prediction), truth]))
    return plot_images(rows, columns, [shape.name for shape in shapes])


def crop_margins(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Crop the square margin that none of the RGBA images of one size uses. Other images (inputs) stay as they are."""
    drawings = [image for image in images if image.shape[-1] == 4]
    used = np.any([image[..., 3] > 0 for image in drawings], axis=0)
    size = len(used)
    extent = np.abs(np.argwhere(used) - (size - 1) / 2).max(initial=0)
    margin = max(0, int((size - 1) / 2 - extent) - 4)
    inner = slice(margin, size - margin)
    return [image[inner, inner] if image.shape[-1] == 4 else image for image in images]


def render_reconstruction(prediction: Reconstruction) -> np.ndarray:
    """Render the mesh, or the points, of a reconstruction."""
    if prediction.mesh is not None:
        return render_mesh(prediction.mesh.vertices, prediction.mesh.faces, color=PREDICTION_COLOR)
    points = np.zeros((0, 3)) if prediction.points is None else prediction.points
    return render_points(points, color=PREDICTION_COLOR)


def render_input(inputs: np.ndarray) -> np.ndarray | None:
    """Render a point cloud (n, 3), voxels (R, R, R) or an image (3, H, W); None for other inputs."""
    if inputs.ndim == 2:
        return render_points(inputs, color=INPUT_COLOR)
    if inputs.ndim == 3 and inputs.shape[0] == 3:
        return inputs.transpose(1, 2, 0).clip(0, 1)
    if inputs.ndim == 3:
        mesh = voxel_mesh(inputs > 0.5)
        return render_mesh(mesh.vertices, mesh.faces, color=INPUT_COLOR)
    return None


def plot_meshes(meshes: Sequence[Mesh]) -> Figure:
    """Plot meshes in rows."""
    images = [render_mesh(mesh.vertices, mesh.faces, color=PREDICTION_COLOR) for mesh in meshes]
    return plot_images([images[i : i + PER_ROW] for i in range(0, len(images), PER_ROW)], [], [])


def plot_images(rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str], names: Sequence[str]) -> Figure:
    """Plot images in a grid.

    Args:
        rows: images of each row.
        columns: titles of the columns, or none.
        names: labels of the rows, or none.
    """
    import matplotlib.pyplot as plt

    width = max(map(len, rows))
    size = (CELL * width + (0.2 if names else 0), CELL * len(rows) + 0.15)
    figure, axes = plt.subplots(len(rows), width, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for row, images in zip(axes, rows, strict=True):
        for ax, image in zip(row, images, strict=False):
            ax.imshow(image, interpolation="antialiased")
    for ax, title in zip(axes[0], columns, strict=False):
        ax.set_title(title, fontsize=7)
    for row, name in zip(axes, names, strict=False):
        row[0].set_ylabel(name, fontsize=5)
    return figure


def plot_refinement(grid: Grid, mesh: Mesh) -> Figure:
    """Plot the cubes that each level of MISE splits, and the final mesh."""
    images = []
    edges = sorted({edge for edge, _ in grid.steps}, reverse=True)
    for edge in edges:
        cubes = np.concatenate([lower for own_edge, lower in grid.steps if own_edge == edge]) // edge
        occupied = np.zeros((grid.resolution // edge,) * 3, dtype=bool)
        occupied[tuple(cubes.T)] = True
        boundary = voxel_mesh(occupied, BOX)
        images.append(render_mesh(boundary.vertices, boundary.faces, color=INPUT_COLOR))
    images.append(render_mesh(mesh.vertices, mesh.faces, color=PREDICTION_COLOR))
    titles = [f"split at {grid.resolution // edge}$^3$" for edge in edges]
    figure = plot_images([images], [*titles, f"mesh at {grid.resolution}$^3$"], [])
    share = 100 * grid.evaluated / grid.values.size
    figure.supxlabel(f"{grid.evaluated:,} of {grid.values.size:,} points evaluated ({share:.1f} %)", fontsize=6)
    return figure


def plot_field_slices(grid: Grid, level: float) -> Figure:
    """Plot logits on the three central planes of the box. Away from the surface MISE does not refine them.

    Args:
        grid: logits.
        level: logit of the threshold.
    """
    import matplotlib.pyplot as plt

    center = grid.resolution // 2
    limit = max(1e-6, float(np.abs(grid.values - level).max()))
    figure, axes = plt.subplots(1, 3, figsize=(COLUMN_WIDTH, 1.35), layout="constrained")
    extent = (-BOX / 2, BOX / 2, -BOX / 2, BOX / 2)
    for ax, axis, (a, b) in zip(axes, range(3), (("y", "z"), ("x", "z"), ("x", "y")), strict=True):
        plane = grid.values.take(center, axis=axis).T - level
        image = ax.imshow(plane, origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit)
        if plane.min() < 0 < plane.max():
            ax.contour(plane, levels=[0], extent=extent, colors="black", linewidths=0.7)
        ax.set(xlabel=a, ylabel=b, xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
    figure.colorbar(image, ax=axes, shrink=0.6, label="logit - threshold")
    return figure


def plot_iou_by_resolution(means: Mapping[str, Any], resolutions: Sequence[int]) -> Figure:
    """Plot the IoU of the meshes at several resolutions, and that of voxels of the true shapes.

    Args:
        means: metrics of the test.
        resolutions: resolutions.
    """
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(COLUMN_WIDTH, 2.0), layout="constrained")
    for key, label, marker in (("iou", "network", "o"), ("voxel_iou", "voxels of the true shapes", "s")):
        values = [means[f"test/{key}_at_{n}"] for n in resolutions]
        ax.plot(resolutions, values, marker=marker, markersize=3, label=label)
    ax.set_xscale("log", base=2)
    ax.set_xticks(resolutions, [str(n) for n in resolutions])
    ax.set(xlabel="resolution", ylabel="IoU", ylim=(0, 1))
    ax.grid(alpha=0.3)
    ax.legend()
    return figure
