"""Meshes out of a grid of values: marching cubes, simplification, refinement by the field's gradient (paper, 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from methods.occnet.mise import BOX, Grid

DROP = 10.0  # how far below the threshold the field is taken to be outside the box
LogitField = Callable[[Tensor], Tensor]


class Mesh(NamedTuple):
    """vertices (V, 3) float32, faces (F, 3) int64, wound so that normals point outwards; normals (V, 3) or None."""

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None

    @property
    def empty(self) -> bool:
        return not len(self.faces)


NOTHING = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64))


def march(grid: Grid, threshold: float, box: float = BOX) -> Mesh:
    """The level set as a closed mesh: what reaches the box's faces is cut off flat there. Empty where nothing is
    inside.

    grid: values of a field that is larger inside. The caps' vertices are corners of the grid, whatever the values
    there, so that those that MISE has not computed do not matter.
    """
    from skimage.measure import marching_cubes

    values = np.pad(grid.values, 1, constant_values=threshold - DROP)
    if not values.max() > threshold:
        return NOTHING
    vertices, faces, _, _ = marching_cubes(values, threshold, gradient_direction="ascent")
    cut = np.clip(vertices - 1, 0, grid.resolution)
    if not np.array_equal(cut, vertices - 1):  # along the box's edges, vertices of two or three caps fall together
        cut, index = np.unique(cut, axis=0, return_inverse=True)
        faces = index[faces]
        faces = faces[(faces != faces[:, [1, 2, 0]]).all(1)]
    return Mesh((box * (cut / grid.resolution - 0.5)).astype(np.float32), faces.astype(np.int64))


def check_simplification() -> None:
    """Raises ImportError where `simplify` lacks what it needs."""
    if find_spec("fast_simplification") is None:
        raise ImportError("method.simplify needs fast-simplification: pip install -c constraints.txt '.[mesh]'")


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """At most about `faces` faces, by quadric edge collapse with the official aggressiveness."""
    if len(mesh.faces) <= faces:
        return mesh
    from fast_simplification import simplify as collapse

    vertices, triangles = collapse(mesh.vertices, mesh.faces, target_count=faces, agg=5.0)
    return Mesh(vertices.astype(np.float32), triangles.astype(np.int64))


def refine(
    mesh: Mesh,
    logits: LogitField,
    threshold: float,
    steps: int,
    lr: float = 1e-4,
    weight: float = 0.01,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Mesh:
    """Moves the vertices towards the level set, and faces' normals towards the field's (paper, equation 4).

    Each step of RMSprop draws one point q on every face and lowers the mean of (f(q) - threshold)^2 + weight * |n -
    m|^2, f being the probability, n the face's normal, and m the field's: minus its gradient at q, of unit length.

    Args:
        logits: places (n, 3) -> logits (n,), differentiable twice. threshold: of the probability, 0..1.
        seed: of the points that are drawn.
    """
    if mesh.empty or not steps:
        return mesh
    generator = np.random.default_rng(seed)
    faces = torch.as_tensor(mesh.faces, device=device)
    vertices = torch.nn.Parameter(torch.tensor(mesh.vertices, device=device))
    optimizer = torch.optim.RMSprop([vertices], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            shares = generator.dirichlet((0.5, 0.5, 0.5), size=len(faces)).astype(np.float32)
            corners = vertices[faces]
            q = (corners * torch.as_tensor(shares, device=device)[..., None]).sum(1)
            f = torch.sigmoid(logits(q))
            (slope,) = torch.autograd.grad(f.sum(), q, create_graph=True)
            ours = unit(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]))
            loss = (f - threshold).square().mean() + weight * (ours + unit(slope)).square().sum(-1).mean()
            (vertices.grad,) = torch.autograd.grad(loss, vertices)
            optimizer.step()
    return Mesh(vertices.detach().cpu().numpy(), mesh.faces)


def field_normals(points: np.ndarray, logits: LogitField, chunk: int = 100_000, device: torch.device | str = "cpu"):
    """Minus the field's gradient, of unit length, at each of points (n, 3): (n, 3) float32."""
    found = []
    with torch.enable_grad():
        for part in np.array_split(points, max(1, -(-len(points) // chunk))):
            q = torch.tensor(part, device=device, requires_grad=True)
            (slope,) = torch.autograd.grad(logits(q).sum(), q)
            found.append(-unit(slope).cpu().numpy())
    return np.concatenate(found)


def unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-10)


def blocky(occupied: np.ndarray, box: float = 1.0) -> Mesh:
    """The boundary of the occupied voxels, two triangles a quad, corners shared. occupied: (R, R, R) bool.

    The grid fills the cube of edge `box` around 0; what touches its faces is closed there.
    """
    side = len(occupied)
    padded = np.pad(occupied, 1)
    quads = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for sign in (-1, 1):
            free = ~np.roll(padded, -sign, axis)
            cubes = np.argwhere(padded & free) - 1
            corners = np.repeat(cubes[:, None], 4, axis=1)
            corners[..., axis] += sign > 0
            around = [(0, 0), (1, 0), (1, 1), (0, 1)] if sign > 0 else [(0, 0), (0, 1), (1, 1), (1, 0)]
            for i, (du, dv) in enumerate(around):
                corners[:, i, u] += du
                corners[:, i, v] += dv
            quads.append(corners)
    corners = np.concatenate(quads).reshape(-1, 3)
    if not len(corners):
        return NOTHING
    n = side + 1
    places, index = np.unique((corners[:, 0] * n + corners[:, 1]) * n + corners[:, 2], return_inverse=True)
    quad = index.reshape(-1, 4)
    vertices = box * (np.stack(np.unravel_index(places, (n,) * 3), axis=1) / side - 0.5)
    return Mesh(vertices.astype(np.float32), np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]).astype(np.int64))
