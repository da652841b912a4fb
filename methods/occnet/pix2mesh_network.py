"""Network of Pixel2Mesh (Wang et al., ECCV 2018), as the paper compares with it: a sphere deformed to fit an image.

All vertices are in the frame of the camera: x right, y down, z ahead, in edges of the unit cube that the shape lies in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, relu

from datasets.checks import check_not_negative
from datasets.shapes.geometry import face_edges

BLOCKS = 3
MIN_DEPTH = 0.1  # smallest depth at which a vertex is projected to the image


class Topology(NamedTuple):
    """Connectivity of a closed mesh.

    Args:
        vertices: number of vertices V.
        faces: vertex indices (F, 3) int64.
        edges: vertex indices (E, 2) int64, each edge once, sorted.
    """

    vertices: int
    faces: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, faces: np.ndarray) -> Topology:
        """Return the connectivity of faces (F, 3)."""
        return cls(int(faces.max()) + 1, faces, np.unique(face_edges(faces), axis=0))

    def subdivided(self) -> Topology:
        """Return the mesh with a new vertex on every edge, in the order of `edges`, and four faces for each.

        `trimesh.remesh.subdivide` gives the same mesh but leaves the order of the new vertices open, which `unpool`
        relies on.
        """
        v, edges = self.vertices, self.edges
        a, b, c = self.faces.T
        ends = [np.sort(np.stack(side, 1), axis=1) @ [v, 1] for side in ((a, b), (b, c), (c, a))]
        ab, bc, ca = (v + np.searchsorted(edges @ [v, 1], end) for end in ends)
        corners = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        return Topology.of(np.concatenate([np.stack(face, 1) for face in corners]))


def unpool(x: Tensor, edges: Tensor) -> Tensor:
    """Append the mean features of the two ends of each edge.

    Shapes:
        x (B, V, F), edges (E, 2) -> (B, V + E, F)
    """
    return torch.cat([x, x[:, edges].mean(2)], dim=1)


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Project points in the frame of the camera to the image.

    Shapes:
        points (B, V, 3), intrinsics (B, 3, 3) -> shares of width and height (B, V, 2)
    """
    projected = (points[:, :, None] * intrinsics[:, None]).sum(-1)  # a matrix product may have low precision (TF32)
    return projected[..., :2] / projected[..., 2:].clamp(min=MIN_DEPTH)


def sample_features(features: Tensor, places: Tensor) -> Tensor:
    """Interpolate feature maps bilinearly. Places outside of the image get the features of its border.

    Shapes:
        features (B, F, H, W), places (B, V, 2) in shares of width and height -> (B, V, F)
    """
    grid = (2 * places - 1)[:, None]
    return grid_sample(features, grid, padding_mode="border", align_corners=False)[:, :, 0].mT


class NormalizedAdjacency(nn.Module):
    """Product S x over the vertices with S = D^-1/2 A D^-1/2, for the adjacency A and the degrees D.

    The S of the authors also has a diagonal; here the own weights of a `GraphConvolution` do its work.

    Args:
        mesh: connectivity.

    Shapes:
        (B, V, F) -> (B, V, F)
    """

    places: Tensor
    weights: Tensor

    def __init__(self, mesh: Topology) -> None:
        super().__init__()
        edges = torch.from_numpy(mesh.edges)
        degrees = torch.bincount(edges.flatten(), minlength=mesh.vertices).float()
        both = torch.cat([edges, edges.flip(1)])
        places = both[(both[:, 0] * mesh.vertices + both[:, 1]).argsort()].T.contiguous()
        to, other = degrees[places]
        self.size = (mesh.vertices, mesh.vertices)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("weights", (to * other).rsqrt(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return S x."""
        matrix = torch.sparse_coo_tensor(
            self.places, self.weights, self.size, is_coalesced=True, check_invariants=False
        )
        columns = x.float().transpose(0, 1)
        with torch.autocast(x.device.type, enabled=False):
            return torch.sparse.mm(matrix, columns.flatten(1)).view(columns.shape).transpose(0, 1)


class GraphConvolution(nn.Module):
    """Graph convolution x W1 + b + S x W2 with the normalized adjacency S.

    Args:
        in_dim: features of the input.
        out_dim: features of the output.

    Shapes:
        (B, V, in_dim) -> (B, V, out_dim)
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.own = nn.Linear(in_dim, out_dim)
        self.neighbor = nn.Linear(in_dim, out_dim, bias=False)
        nn.init.xavier_uniform_(self.own.weight)
        nn.init.zeros_(self.own.bias)
        nn.init.xavier_uniform_(self.neighbor.weight)

    def forward(self, x: Tensor, adjacency: NormalizedAdjacency) -> Tensor:
        """Apply the convolution."""
        return self.own(x) + adjacency(self.neighbor(x))


class Deformation(nn.Module):
    """Deformation block: graph convolutions with a residual average over every two hidden ones.

    The last layer starts at 0, so that the vertices do not move at first.

    Args:
        in_dim: features of the input.
        hidden: features of the hidden layers.
        layers: number of graph convolutions.

    Shapes:
        (B, V, in_dim) -> movement of the vertices (B, V, 3), features (B, V, hidden)
    """

    def __init__(self, in_dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.first = GraphConvolution(in_dim, hidden)
        self.hidden = nn.ModuleList(GraphConvolution(hidden, hidden) for _ in range(layers - 2))
        self.last = GraphConvolution(hidden, 3)
        for weight in self.last.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor, adjacency: NormalizedAdjacency) -> tuple[Tensor, Tensor]:
        """Return the movement and the features."""
        x = residual = relu(self.first(x, adjacency))
        for number, layer in enumerate(self.hidden, 1):
            x = relu(layer(x, adjacency))
            if number % 2 == 0:
                x = residual = (x + residual) / 2
        return self.last(x, adjacency), x


class ImageFeatures(nn.Module):
    """18 convolutions of an image, of which four feature maps are used.

    Differs from the authors': weights start as by He et al. (2015), since 18 layers without normalization let hardly
    any signal through with the default initialization of torch.

    Args:
        channels: channels after each halving of the size.

    Shapes:
        (B, 3, H, W) -> four maps of channels[2:], 4, 8, 16 and 32 times smaller; at 224 pixels 64 x 56^2, 128 x 28^2,
        256 x 14^2 and 512 x 7^2
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        one, two, *others = channels
        self.stem = nn.Sequential(*_convolutions(3, one, 2, stride=1), *_convolutions(one, two, 3))
        self.stages = nn.ModuleList(
            nn.Sequential(*_convolutions(a, b, count, kernel))
            for a, b, count, kernel in zip(channels[1:], others, (3, 3, 3, 4), (3, 3, 5, 5), strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the four feature maps."""
        x = self.stem(x)
        return [x := stage(x) for stage in self.stages]


def _convolutions(channels: int, out: int, count: int, kernel: int = 3, stride: int = 2) -> list[nn.Module]:
    """Return `count` convolutions with ReLUs, of which the first has this kernel and stride."""
    layers: list[nn.Module] = [nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2), nn.ReLU()]
    for _ in range(count - 1):
        layers += [nn.Conv2d(out, out, 3, padding=1), nn.ReLU()]
    for conv in layers:
        if not isinstance(conv, nn.Conv2d):
            continue
        nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    return layers


class Stage(NamedTuple):
    """Vertices (B, V, 3) before and after a block."""

    before: Tensor
    after: Tensor


class MeshNetwork(nn.Module):
    """Three blocks that deform a sphere of 162 vertices, then 642 and 2,562, to fit an image.

    Each block sees the position of every vertex, the image features at its projection and, but for the first block, the
    features of the block before. Between blocks every edge gets a vertex at its center.

    Differs from the authors' in two points. They start from an ellipsoid of 156 vertices (618, 2,466) that comes with
    their code; here it is an icosphere at the mean position of the shapes: in the center of the image, `depth` ahead of
    the camera. And their blocks predict positions, starting anywhere, with which spheres folded up or turned inside out
    in training; here they predict movements, starting at 0.

    Args:
        inputs: kind of input, from the data set.
        num_shapes: number of training shapes, from the data set; not used.
        channels: channels of the image features, by halvings of the size.
        hidden: features of the graph convolutions.
        layers: number of graph convolutions of each block.
        subdivisions: subdivisions of the icosahedron before the first block.
        radius: radius of the sphere, in edges of the unit cube.
        depth: distance of its center from the camera, in edges of the unit cube.

    Shapes:
        images (B, 3, H, W), intrinsics (B, 3, 3) -> a `Stage` per block

    Raises:
        ValueError: if an argument is out of its range.
    """

    tasks = ("shape-reconstruction",)

    def __init__(
        self,
        inputs: str,
        num_shapes: int,
        channels: Sequence[int] = (16, 32, 64, 128, 256, 512),
        hidden: int = 192,
        layers: Sequence[int] = (14, 14, 15),
        subdivisions: int = 2,
        radius: float = 0.4,
        depth: float = 1.8,
    ) -> None:
        from trimesh.creation import icosphere

        super().__init__()
        if inputs != "image":
            raise ValueError(f"this model takes images, not {inputs}: dataset.inputs=image")
        _check_sizes(channels, hidden, layers, subdivisions, radius, depth)
        sphere = icosphere(subdivisions, radius)
        start = torch.from_numpy(np.asarray(sphere.vertices, np.float32)) + torch.tensor([0, 0, depth])
        self.register_buffer("start", start, persistent=False)
        self.meshes = [Topology.of(np.asarray(sphere.faces, np.int64))]
        for _ in range(BLOCKS - 1):
            self.meshes.append(self.meshes[-1].subdivided())
        for number, mesh in enumerate(self.meshes):
            self.register_buffer(f"edges_{number}", torch.from_numpy(mesh.edges), persistent=False)
        self.adjacencies = nn.ModuleList(NormalizedAdjacency(mesh) for mesh in self.meshes)
        self.image = ImageFeatures(channels)
        in_dim = 3 + sum(channels[2:])
        self.blocks = nn.ModuleList(
            Deformation(in_dim + (hidden if number else 0), hidden, count) for number, count in enumerate(layers)
        )

    @property
    def faces(self) -> np.ndarray:
        """Return the faces of the mesh of the last block, with outward normals: (F, 3)."""
        return self.meshes[-1].faces

    def edges(self, number: int) -> Tensor:
        """Return the edges of the mesh of block `number`: (E, 2)."""
        return self.get_buffer(f"edges_{number}")

    def forward(self, images: Tensor, intrinsics: Tensor) -> list[Stage]:
        """Return the vertices before and after each block."""
        maps = self.image(images)
        vertices = self.get_buffer("start").expand(len(images), -1, -1)
        hidden = vertices[..., :0]
        stages: list[Stage] = []
        for number, (block, adjacency) in enumerate(zip(self.blocks, self.adjacencies, strict=True)):
            places = project(vertices, intrinsics)
            x = torch.cat([vertices, *(sample_features(features, places) for features in maps), hidden], dim=-1)
            if number:
                x, vertices = (unpool(values, self.edges(number - 1)) for values in (x, vertices))
            move, hidden = block(x, adjacency)
            stages.append(Stage(vertices, vertices + move))
            vertices = stages[-1].after
        return stages


def _check_sizes(
    channels: Sequence[int], hidden: int, layers: Sequence[int], subdivisions: int, radius: float, depth: float
) -> None:
    if len(channels) != 6 or min(channels) < 1 or hidden < 1:
        raise ValueError(
            f"model.channels must be six positive numbers and model.hidden one, got {list(channels)} and {hidden}"
        )
    if len(layers) != BLOCKS or min(layers) < 2:
        raise ValueError(f"model.layers must be {BLOCKS} numbers, at least 2 each, got {list(layers)}")
    check_not_negative("model", subdivisions=subdivisions)
    if not 0 < radius < depth:
        raise ValueError(f"model.radius must be between 0 and model.depth={depth}, got {radius}")
