"""Meshes from a grid of values: marching cubes, simplification, and refinement by the gradient (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from methods.occnet.mesh import EMPTY_MESH, Mesh
from methods.occnet.mise import BOX, Grid

PADDING_DEPTH = 10.0  # how far below the threshold the values outside of the box are
Field = Callable[[Tensor], Tensor]


def marching_cubes(grid: Grid, threshold: float, box: float = BOX) -> Mesh:
    """Extract the level set as a closed mesh, cut off flat at the faces of the box.

    The vertices on the faces of the box are corners of the grid, whatever the values there, so that values which MISE
    has not computed do not matter.

    Args:
        grid: values of a field that is larger inside.
        threshold: level.
        box: edge of the box around 0 that the grid fills.

    Returns:
        The mesh; empty if no value is above the threshold.
    """
    from skimage import measure

    values = np.pad(grid.values, 1, constant_values=threshold - PADDING_DEPTH)
    if not values.max() > threshold:
        return EMPTY_MESH
    vertices, faces, _, _ = measure.marching_cubes(values, threshold, gradient_direction="ascent")
    clipped = np.clip(vertices - 1, 0, grid.resolution)
    if not np.array_equal(clipped, vertices - 1):  # vertices of two or three faces of the box coincide on its edges
        clipped, index = np.unique(clipped, axis=0, return_inverse=True)
        faces = index[faces]
        faces = faces[(faces != faces[:, [1, 2, 0]]).all(1)]
    return Mesh((box * (clipped / grid.resolution - 0.5)).astype(np.float32), faces.astype(np.int64))


def check_simplification() -> None:
    """Raise ImportError if the library that `simplify` needs is not installed."""
    if find_spec("fast_simplification") is None:
        raise ImportError("method.simplify needs fast-simplification: pip install -c constraints.txt '.[mesh]'")


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """Reduce a mesh to about `faces` faces by quadric edge collapse, with the official aggressiveness."""
    if len(mesh.faces) <= faces:
        return mesh
    from fast_simplification import simplify as collapse

    vertices, triangles = collapse(mesh.vertices, mesh.faces, target_count=faces, agg=5.0)
    return Mesh(vertices.astype(np.float32), triangles.astype(np.int64))


def refine(
    mesh: Mesh,
    logits: Field,
    threshold: float,
    steps: int,
    lr: float = 1e-4,
    weight: float = 0.01,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Mesh:
    """Move the vertices towards the level set, and the normals of the faces towards those of the field (equation 4).

    Each step of RMSprop draws one point q on every face and lowers the mean of (f(q) - threshold)^2 + weight * |n -
    m|^2, where f is the probability, n the normal of the face, and m that of the field: minus its gradient at q, of
    unit length.

    Args:
        mesh: mesh.
        logits: function from points (n, 3) to logits (n,), differentiable twice.
        threshold: probability at the surface.
        steps: number of steps.
        lr: learning rate of RMSprop.
        weight: weight of the normals.
        seed: seed of the points that are drawn.
        device: device of the field.
    """
    if mesh.empty or not steps:
        return mesh
    rng = np.random.default_rng(seed)
    faces = torch.as_tensor(mesh.faces, device=device)
    vertices = torch.nn.Parameter(torch.tensor(mesh.vertices, device=device))
    optimizer = torch.optim.RMSprop([vertices], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            shares = rng.dirichlet((0.5, 0.5, 0.5), size=len(faces)).astype(np.float32)
            corners = vertices[faces]
            q = (corners * torch.as_tensor(shares, device=device)[..., None]).sum(1)
            f = torch.sigmoid(logits(q))
            (gradient,) = torch.autograd.grad(f.sum(), q, create_graph=True)
            normals = _unit(torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]))
            loss = (f - threshold).square().mean() + weight * (normals + _unit(gradient)).square().sum(-1).mean()
            (vertices.grad,) = torch.autograd.grad(loss, vertices)
            optimizer.step()
    return Mesh(vertices.detach().cpu().numpy(), mesh.faces)


def field_normals(
    points: np.ndarray, logits: Field, chunk: int = 100_000, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Return minus the gradient of the field, of unit length, at points (n, 3): (n, 3) float32.

    Args:
        points: points (n, 3).
        logits: function from points (n, 3) to logits (n,), differentiable.
        chunk: points that are evaluated at once.
        device: device of the field.
    """
    normals = []
    with torch.enable_grad():
        for part in np.array_split(points, max(1, -(-len(points) // chunk))):
            q = torch.tensor(part, device=device, requires_grad=True)
            (gradient,) = torch.autograd.grad(logits(q).sum(), q)
            normals.append(-_unit(gradient).cpu().numpy())
    return np.concatenate(normals)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-10)
