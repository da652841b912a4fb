"""Pixel2Mesh (Wang et al., ECCV 2018), as the paper compares with it: a sphere bent to what a picture shows.

All vertices are in the frame of the picture's camera: x right, y down, z ahead, in edges of the unit cube that the
shape lies in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, normalize, relu

from datasets.shapes.geometry import sides

BLOCKS = 3
NEAREST = 0.1  # how near to the camera a vertex counts at least when it is looked up in the picture


class Topology(NamedTuple):
    """Of a closed mesh of V vertices: faces (F, 3) and edges (E, 2), each once, int64."""

    vertices: int
    faces: np.ndarray
    edges: np.ndarray

    @classmethod
    def of(cls, faces: np.ndarray) -> Topology:
        return cls(int(faces.max()) + 1, faces, np.unique(sides(faces), axis=0))

    def finer(self) -> Topology:
        """With a vertex more on the middle of every edge, in the order of the edges, and four faces out of each."""
        v, edges = self.vertices, self.edges
        a, b, c = self.faces.T
        ends = [np.sort(np.stack(side, 1), axis=1) @ [v, 1] for side in ((a, b), (b, c), (c, a))]
        ab, bc, ca = (v + np.searchsorted(edges @ [v, 1], end) for end in ends)
        corners = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        return Topology.of(np.concatenate([np.stack(face, 1) for face in corners]))


def unpool(x: Tensor, edges: Tensor) -> Tensor:
    """Features (B, V, F) -> (B, V + E, F): those of the edges' middles follow, means of the two ends'."""
    return torch.cat([x, x[:, edges].mean(2)], dim=1)


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Where points (B, V, 3) before a camera (B, 3, 3) are seen: (B, V, 2), shares of the width and of the height."""
    seen = (points[:, :, None] * intrinsics[:, None]).sum(-1)  # no matrix product: those may have few digits
    return seen[..., :2] / seen[..., 2:].clamp(min=NEAREST)


def look_at(features: Tensor, places: Tensor) -> Tensor:
    """Features (B, F, H, W) at places (B, V, 2), shares of width and height, bilinearly: (B, V, F).

    Places out of the picture see its border.
    """
    grid = (2 * places - 1)[:, None]
    return grid_sample(features, grid, padding_mode="border", align_corners=False)[:, :, 0].mT


class Neighbours(nn.Module):
    """S x over the vertices, (B, V, F) -> (B, V, F), with S = D^-1/2 A D^-1/2 of the adjacency A and the degrees D.

    The authors' S has a diagonal besides; the own weights of a `GraphConvolution` stand in for it.
    """

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
        matrix = torch.sparse_coo_tensor(
            self.places, self.weights, self.size, is_coalesced=True, check_invariants=False
        )
        columns = x.float().transpose(0, 1)
        with torch.autocast(x.device.type, enabled=False):
            return torch.sparse.mm(matrix, columns.flatten(1)).view(columns.shape).transpose(0, 1)


class GraphConvolution(nn.Module):
    """x W1 + b + S x W2 on the vertices: (B, V, in_dim) -> (B, V, out_dim)."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.own = nn.Linear(in_dim, out_dim)
        self.others = nn.Linear(in_dim, out_dim, bias=False)
        nn.init.xavier_uniform_(self.own.weight)
        nn.init.zeros_(self.own.bias)
        nn.init.xavier_uniform_(self.others.weight)

    def forward(self, x: Tensor, neighbours: Neighbours) -> Tensor:
        return self.own(x) + neighbours(self.others(x))


class Deformation(nn.Module):
    """`layers` graph convolutions; every second hidden one is averaged with what went into the one before it.

    Features (B, V, in_dim) -> how far the vertices move (B, V, 3), and the features that say so (B, V, hidden). At
    first they do not move: the last layer starts at 0.
    """

    def __init__(self, in_dim: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.first = GraphConvolution(in_dim, hidden)
        self.hidden = nn.ModuleList(GraphConvolution(hidden, hidden) for _ in range(layers - 2))
        self.last = GraphConvolution(hidden, 3)
        for weight in self.last.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
        x = kept = relu(self.first(x, neighbours))
        for number, layer in enumerate(self.hidden, 1):
            x = relu(layer(x, neighbours))
            if number % 2 == 0:
                x = kept = (x + kept) / 2
        return self.last(x, neighbours), x


class ImageFeatures(nn.Module):
    """18 convolutions. Pictures (B, 3, H, W) -> four maps of channels[2:], 4, 8, 16 and 32 times smaller than them.

    At 224 pixels 64 x 56^2, 128 x 28^2, 256 x 14^2 and 512 x 7^2. Weights start as He et al. (2015) draw them, ours: 18
    layers without a normalisation let nothing through as torch draws them.
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
        x = self.stem(x)
        return [x := stage(x) for stage in self.stages]


def _convolutions(channels: int, out: int, count: int, kernel: int = 3, stride: int = 2) -> list[nn.Module]:
    """`count` convolutions and ReLUs, of which the first has this kernel and stride."""
    layers: list[nn.Module] = [nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2), nn.ReLU()]
    for _ in range(count - 1):
        layers += [nn.Conv2d(out, out, 3, padding=1), nn.ReLU()]
    for conv in layers[::2]:
        nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
    return layers


class Stage(NamedTuple):
    """The vertices (B, V, 3) that a block sees, and those that it gives."""

    before: Tensor
    after: Tensor


class MeshNetwork(nn.Module):
    """Three blocks that bend a sphere of 162 vertices, then 642 and 2,562, to what a picture shows.

    Every block sees each vertex, the features of the picture where the camera has it, and but for the first what the
    block before it made of it. Between blocks every edge gets a vertex in its middle.

    Two things are ours. The authors start from an ellipsoid of 156 vertices (618, 2,466) that they ship as a file; we
    from an icosphere, which like theirs is where shapes are on the average: in the middle of the picture, `depth`
    before the camera. And our blocks give how far each vertex moves, from 0 on; theirs give its place, from anywhere
    on, with which our spheres folded up or turned inside out on their way to the shape.

    Forward: pictures (B, 3, H, W), intrinsics (B, 3, 3) -> a `Stage` of each block.

    Args:
        inputs, num_shapes: dims of the data. channels: of the picture's features, by halvings of its size. hidden,
        layers: of the blocks' graph convolutions. subdivisions: of the icosahedron before the first block. radius,
        depth: of the sphere, in edges of the unit cube.
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
            raise ValueError(f"this model sees pictures and no {inputs}: dataset.inputs=image")
        if len(channels) != 6 or min(channels) < 1 or hidden < 1:
            raise ValueError(
                f"model.channels must be six positive numbers and model.hidden one, got {list(channels)} and {hidden}"
            )
        if len(layers) != BLOCKS or min(layers) < 2:
            raise ValueError(f"model.layers must be {BLOCKS} numbers, at least 2 each, got {list(layers)}")
        if subdivisions < 0:
            raise ValueError(f"model.subdivisions must not be negative, got {subdivisions}")
        if not 0 < radius < depth:
            raise ValueError(f"model.radius must be between 0 and model.depth={depth}, got {radius}")
        sphere = icosphere(subdivisions, radius)
        start = torch.from_numpy(np.asarray(sphere.vertices, np.float32)) + torch.tensor([0, 0, depth])
        self.register_buffer("start", start, persistent=False)
        self.meshes = [Topology.of(np.asarray(sphere.faces, np.int64))]
        for _ in range(BLOCKS - 1):
            self.meshes.append(self.meshes[-1].finer())
        for number, mesh in enumerate(self.meshes):
            self.register_buffer(f"edges_{number}", torch.from_numpy(mesh.edges), persistent=False)
        self.neighbours = nn.ModuleList(Neighbours(mesh) for mesh in self.meshes)
        self.image = ImageFeatures(channels)
        seen = 3 + sum(channels[2:])
        self.blocks = nn.ModuleList(
            Deformation(seen + (hidden if number else 0), hidden, count) for number, count in enumerate(layers)
        )

    @property
    def faces(self) -> np.ndarray:
        """Of the last block's mesh, outward: (F, 3)."""
        return self.meshes[-1].faces

    def edges(self, number: int) -> Tensor:
        """Of the mesh of block `number`: (E, 2)."""
        return self.get_buffer(f"edges_{number}")

    def forward(self, pictures: Tensor, intrinsics: Tensor) -> list[Stage]:
        maps = self.image(pictures)
        vertices = self.start.expand(len(pictures), -1, -1)
        hidden = vertices[..., :0]
        stages: list[Stage] = []
        for number, (block, neighbours) in enumerate(zip(self.blocks, self.neighbours, strict=True)):
            places = project(vertices, intrinsics)
            x = torch.cat([vertices, *(look_at(features, places) for features in maps), hidden], dim=-1)
            if number:
                x, vertices = (unpool(values, self.edges(number - 1)) for values in (x, vertices))
            way, hidden = block(x, neighbours)
            stages.append(Stage(vertices, vertices + way))
            vertices = stages[-1].after
        return stages


def to_camera(points: Tensor, cameras: Tensor) -> Tensor:
    """Points (B, n, 3) of the shape's frame -> in the camera's, (B, 3, 4)."""
    return points @ cameras[..., :3].mT + cameras[:, None, :, 3]


def from_camera(points: Tensor, cameras: Tensor) -> Tensor:
    """What `to_camera` gave, back in the shape's frame."""
    return torch.linalg.solve(cameras[..., :3], (points - cameras[:, None, :, 3]).mT).mT


def edge_length(vertices: Tensor, edges: Tensor) -> Tensor:
    """Mean squared length of the edges (E, 2) between vertices (B, V, 3)."""
    return (vertices[:, edges[:, 0]] - vertices[:, edges[:, 1]]).square().sum(-1).mean()


def along_normals(vertices: Tensor, edges: Tensor, normals: Tensor) -> Tensor:
    """Mean of |<n, e>|, of the unit vector e of each edge and the unit normals n of both its vertices, (B, V, 3)."""
    along = normalize(vertices[:, edges[:, 0]] - vertices[:, edges[:, 1]], dim=-1)
    return (along[:, :, None] * normalize(normals, dim=-1)[:, edges]).sum(-1).abs().mean()


def laplacian(vertices: Tensor, edges: Tensor) -> Tensor:
    """Each vertex less the mean of its neighbours: (B, V, 3)."""
    to, other = torch.cat([edges, edges.flip(1)]).T
    count = torch.bincount(to, minlength=vertices.shape[1])
    total = torch.zeros_like(vertices).index_add(1, to, vertices[:, other])
    return vertices - total / count[:, None]
