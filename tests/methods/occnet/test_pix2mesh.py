"""Pixel2Mesh: meshes and their losses beside trimesh, scipy and formulas, cameras beside pictures, and its training."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import map_coordinates
from scipy.sparse import coo_array
from scipy.sparse.csgraph import laplacian as graph_laplacian
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import nn
from torch.nn.functional import normalize

from datasets.shapes.render import intrinsics, random_camera, render
from datasets.shapes.solids import Solids
from methods.occnet.evaluation import ground_truth, score
from methods.occnet.pix2mesh import (
    Pixel2Mesh,
    edge_normal_cosine,
    from_camera_frame,
    laplacian_coordinates,
    squared_edge_length,
    to_camera_frame,
)
from methods.occnet.pix2mesh_network import (
    Deformation,
    GraphConvolution,
    MeshNetwork,
    NormalizedAdjacency,
    Stage,
    Topology,
    project,
    sample_features,
    unpool,
)

SMALL = {"channels": [4, 4, 8, 8, 16, 16], "hidden": 32, "layers": [4, 4, 5], "subdivisions": 0}


def sphere(subdivisions: int = 1) -> tuple[torch.Tensor, Topology]:
    """Vertices (1, V, 3) of an icosphere of radius 1, and its mesh."""
    mesh = trimesh.creation.icosphere(subdivisions)
    return torch.tensor(mesh.vertices[None], dtype=torch.float32), Topology.of(np.asarray(mesh.faces, np.int64))


def solids(category: str) -> Solids:
    """One shape of this category, seen once."""
    more = {"image_size": 64, "views": 1, "stored_points": 5000}
    data = Solids({"train": 1, "val": 1, "test": 1}, inputs="image", categories=[category], train_as_test=True, **more)
    data.setup()
    return data


def batch_of(category: str):
    """That shape, as a test batch."""
    return next(iter(solids(category).test_dataloader()))


def network(**options) -> MeshNetwork:
    torch.manual_seed(0)
    return MeshNetwork("image", 1, **SMALL | options)


def test_finer_meshes_are_those_that_trimesh_divides():
    mesh = trimesh.creation.icosphere(2)
    levels = [Topology.of(np.asarray(mesh.faces, np.int64))]
    vertices = torch.tensor(mesh.vertices[None])
    for count in (642, 2562):
        vertices = unpool(vertices, torch.from_numpy(levels[-1].edges))
        levels.append(levels[-1].subdivided())
        assert vertices.shape == (1, count, 3)
        mesh = mesh.subdivide()
        assert cKDTree(mesh.vertices).query(vertices[0])[0].max() < 1e-12
        ours = trimesh.Trimesh(vertices[0].numpy(), levels[-1].faces, process=False)
        assert ours.is_watertight
        assert ours.is_winding_consistent
        assert ours.volume == pytest.approx(mesh.volume)
        assert len(ours.faces) == len(mesh.faces)
        assert cKDTree(mesh.triangles_center).query(ours.triangles_center)[0].max() < 1e-12
    assert [level.vertices for level in levels] == [162, 642, 2562]
    for level in levels:
        assert level.vertices - len(level.edges) + len(level.faces) == 2
    for coarse, fine in pairwise(levels):
        assert fine.vertices == coarse.vertices + len(coarse.edges)


def test_features_in_the_middle_of_an_edge_are_the_mean_of_its_ends():
    x, edges = torch.rand(2, 5, 4), torch.tensor([[0, 1], [4, 2]])
    found = unpool(x, edges)
    assert torch.equal(found[:, :5], x)
    torch.testing.assert_close(found[:, 5], (x[:, 0] + x[:, 1]) / 2)
    torch.testing.assert_close(found[:, 6], (x[:, 4] + x[:, 2]) / 2)


def test_points_are_projected_to_where_they_are_drawn():
    """A speck at each of some places, and the middle of what is dark in its picture."""
    drawn = np.random.default_rng(0)
    speck = trimesh.creation.icosphere(1, 0.02)
    for _ in range(6):
        camera, place = random_camera(drawn, "z"), drawn.uniform(-0.4, 0.4, 3)
        picture = 255.0 - render(speck.vertices + place, np.asarray(speck.faces), camera, 137)
        rows, columns = np.meshgrid(np.arange(137) + 0.5, np.arange(137) + 0.5, indexing="ij")
        dark = np.array([(columns * picture).sum(), (rows * picture).sum()]) / picture.sum() / 137
        at = to_camera_frame(torch.tensor(place)[None, None], torch.tensor(camera)[None])
        found = project(at, torch.tensor(intrinsics(1))[None])[0, 0]
        np.testing.assert_allclose(found, dark, atol=0.4 / 137)


def test_points_behind_the_camera_have_a_place_too():
    found = project(torch.tensor([[[0.1, 0.0, -1.0], [0.1, 0.0, 0.0]]]), torch.eye(3)[None])
    assert torch.isfinite(found).all()


def test_features_are_looked_up_bilinearly_and_at_the_border_beyond():
    features, places = torch.rand(2, 3, 6, 9), torch.rand(2, 40, 2) * 1.4 - 0.2
    found = sample_features(features, places)
    for shape in range(2):
        column, row = (places[shape].double() * torch.tensor([9, 6]) - 0.5).T.numpy()
        for channel in range(3):
            expected = map_coordinates(
                features[shape, channel].double().numpy(), [row, column], order=1, mode="nearest"
            )
            np.testing.assert_allclose(found[shape, :, channel], expected, atol=1e-5)


def test_graph_convolution_is_the_product_with_the_dense_matrix():
    _, mesh = sphere()
    edges, size = mesh.edges, (mesh.vertices,) * 2
    adjacency = coo_array((np.ones(len(edges)), edges.T), shape=size)
    adjacency = (adjacency + adjacency.T).toarray()
    degrees = adjacency.sum(1)
    assert set(degrees) == {5, 6}
    support = np.eye(len(degrees)) - graph_laplacian(adjacency, normed=True)
    np.testing.assert_allclose(support, adjacency / np.sqrt(np.outer(degrees, degrees)))
    layer, x = GraphConvolution(4, 7), torch.rand(3, mesh.vertices, 4)
    nn.init.normal_(layer.own.bias)
    own, others, bias = (v.detach().numpy() for v in (layer.own.weight, layer.neighbor.weight, layer.own.bias))
    expected = x.numpy() @ own.T + bias + support @ x.numpy() @ others.T
    np.testing.assert_allclose(layer(x, NormalizedAdjacency(mesh)).detach(), expected, atol=1e-5)


def test_cameras_there_and_back_keep_lengths():
    turn = torch.tensor(Rotation.random(4, random_state=0).as_matrix())
    cameras = torch.cat([turn, torch.rand(4, 3, 1).double()], 2)
    points = torch.rand(4, 20, 3).double()
    seen = to_camera_frame(points, cameras)
    for shape in range(4):
        for point, found in zip(points[shape], seen[shape], strict=True):
            torch.testing.assert_close(found, turn[shape] @ point + cameras[shape, :, 3])
    torch.testing.assert_close(torch.cdist(seen, seen), torch.cdist(points, points))
    torch.testing.assert_close(from_camera_frame(seen, cameras), points)


def test_edges_of_a_sphere_have_the_lengths_of_trimesh_and_lie_across_its_normals():
    vertices, mesh = sphere(2)
    edges = torch.from_numpy(mesh.edges)
    lengths = trimesh.creation.icosphere(2).edges_unique_length
    assert len(lengths) == len(edges)
    assert squared_edge_length(vertices, edges).item() == pytest.approx((lengths**2).mean(), rel=1e-5)
    # Between points p and q of the unit sphere, <p, p - q> = |p - q|^2 / 2.
    assert edge_normal_cosine(vertices, edges, vertices).item() == pytest.approx(lengths.mean() / 2, rel=1e-5)
    assert edge_normal_cosine(3 * vertices, edges, -7 * vertices).item() == pytest.approx(lengths.mean() / 2, rel=1e-5)


def test_laplacian_coordinates_are_those_of_the_neighbours_that_trimesh_finds():
    vertices, mesh = sphere()
    shapes = torch.cat([vertices, torch.rand(1, 42, 3)])
    found = laplacian_coordinates(shapes, torch.from_numpy(mesh.edges))
    neighbours = trimesh.creation.icosphere(1).vertex_neighbors
    for shape in range(2):
        for vertex, others in enumerate(neighbours):
            torch.testing.assert_close(found[shape, vertex], shapes[shape, vertex] - shapes[shape, others].mean(0))


def spheres(subdivisions: int) -> torch.Tensor:
    """Two of them, (2, V, 3)."""
    vertices = torch.tensor(trimesh.creation.icosphere(subdivisions).vertices, dtype=torch.float32)
    return torch.stack([0.4 * vertices, 0.3 * vertices])


def surfaces() -> tuple[torch.Tensor, torch.Tensor]:
    """Points and unit normals of two shapes, (2, 60, 3) each."""
    drawn = torch.Generator().manual_seed(0)
    return torch.rand(2, 60, 3, generator=drawn) - 0.5, normalize(torch.randn(2, 60, 3, generator=drawn), dim=-1)


@pytest.mark.parametrize("number", range(3))
def test_chamfer_and_normals_of_a_block_are_those_of_nearest_neighbours(number):
    training, (surface, normals) = Pixel2Mesh(network()), surfaces()
    after = spheres(number)
    terms = training.block_terms(number, Stage(after, after), surface, normals)
    edges = training.network.meshes[number].edges
    missed, away, across = [], [], []
    for shape, points, directions in zip(after.numpy(), surface.numpy(), normals.numpy(), strict=True):
        missed.append(cKDTree(shape).query(points)[0] ** 2)
        distance, place = cKDTree(points).query(shape)
        away.append(distance**2)
        for a, b in edges:
            edge = (shape[a] - shape[b]) / np.linalg.norm(shape[a] - shape[b])
            across += [abs(directions[place[end]] @ edge) for end in (a, b)]
    assert terms["chamfer"].item() == pytest.approx(np.mean(missed) + 0.55 * np.mean(away), rel=1e-4)
    assert terms["normal"].item() == pytest.approx(np.mean(across), rel=1e-4)


@pytest.mark.parametrize(("number", "of_laplacian", "of_move"), [(0, 0.3, 0), (1, 1, 1), (2, 1, 1)])
def test_what_moves_as_a_whole_keeps_its_laplacian_coordinates(number, of_laplacian, of_move):
    training, before = Pixel2Mesh(network()), spheres(number)
    moved = training.block_terms(number, Stage(before, before + torch.tensor([0.1, -0.2, 0.3])), *surfaces())
    assert moved["laplacian"].item() == pytest.approx(0, abs=1e-10)
    assert moved["move"].item() == pytest.approx(of_move * 0.14)
    one = before.clone()
    one[0, 5, 0] += 0.6  # of 2 V: its own coordinate changes by all of it, those of its n neighbours by 1 / theirs
    changed = training.block_terms(number, Stage(before, one), *surfaces())
    neighbours = trimesh.creation.icosphere(number).vertex_neighbors
    squares = 0.36 * (1 + sum(len(neighbours[other]) ** -2 for other in neighbours[5]))
    assert changed["laplacian"].item() == pytest.approx(of_laplacian * squares / (2 * len(neighbours)), rel=1e-4)
    assert changed["move"].item() == pytest.approx(of_move * 0.36 / (2 * len(neighbours)), rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_the_terms_of_all_blocks():
    """In the frame of the shape: distances, lengths and angles are the same there."""
    batch, training = batch_of("cone"), Pixel2Mesh(network())
    for block in training.network.blocks:
        nn.init.normal_(block.last.own.weight, std=0.02)
    found = training.loss_terms(batch)
    total = dict.fromkeys(("chamfer", "edge", "normal", "laplacian", "move"), 0.0)
    for number, stage in enumerate(training.network(batch.inputs, batch.intrinsics)):
        own = Stage(*(from_camera_frame(vertices, batch.cameras) for vertices in stage))
        for name, term in training.block_terms(number, own, batch.surface, batch.normals).items():
            total[name] += term.item()
    for name, value in total.items():
        assert value > 0
        assert found[name].item() == pytest.approx(value, rel=1e-3)
    unit = 0.57**2
    expected = unit * (3000 * total["chamfer"] + 300 * total["edge"] + 1500 * total["laplacian"] + 100 * total["move"])
    assert found["loss"].item() == pytest.approx(expected + 0.5 * total["normal"], rel=1e-3)


def test_the_network_has_the_layers_of_the_paper():
    found = MeshNetwork("image", 1)
    assert sum(isinstance(layer, nn.Conv2d) for layer in found.modules()) == 18
    maps = found.image(torch.rand(1, 3, 224, 224))
    assert [tuple(x.shape[1:]) for x in maps] == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    layers = [[layer for layer in block.modules() if isinstance(layer, GraphConvolution)] for block in found.blocks]
    assert [len(block) for block in layers] == [14, 14, 15]
    assert [block[0].own.in_features for block in layers] == [963, 963 + 192, 963 + 192]
    assert {layer.own.out_features for block in layers for layer in block[:-1]} == {192}
    assert [mesh.vertices for mesh in found.meshes] == [162, 642, 2562]


def test_every_second_layer_is_averaged_with_what_went_into_the_one_before_it():
    _, mesh = sphere()
    block, around = Deformation(5, 8, layers=7), NormalizedAdjacency(mesh)
    nn.init.normal_(block.last.own.weight)
    x = torch.rand(2, mesh.vertices, 5)
    a, b, c, d, e = (lambda x, layer=layer: layer(x, around).relu() for layer in block.hidden)
    h0 = block.first(x, around).relu()
    h2 = (h0 + b(a(h0))) / 2
    h4 = (h2 + d(c(h2))) / 2
    way, features = block(x, around)
    torch.testing.assert_close(features, e(h4))
    torch.testing.assert_close(way, block.last(e(h4), around))


def test_before_training_the_mesh_is_a_sphere_before_the_camera():
    batch, training = batch_of("cup"), Pixel2Mesh(network(subdivisions=2, radius=0.3, depth=1.7))
    with torch.no_grad():
        found = training.reconstruct(batch).mesh
    rotation, shift = batch.cameras[0, :, :3].numpy(), batch.cameras[0, :, 3].numpy()
    centre = rotation.T @ (np.array([0, 0, 1.7]) - shift)
    mesh = trimesh.Trimesh(found.vertices, found.faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.05)  # and outward
    np.testing.assert_allclose(mesh.center_mass, centre, atol=1e-4)


def test_few_digits_in_products_change_little():
    batch, net = batch_of("box"), network()
    for block in net.blocks:
        nn.init.normal_(block.last.own.weight, std=0.02)
    whole = net(batch.inputs, batch.intrinsics)[-1].after
    with torch.autocast("cpu", torch.bfloat16):
        coarse = Pixel2Mesh(net).loss_terms(batch)["loss"]
        found = net(batch.inputs, batch.intrinsics)[-1].after
    coarse.backward()
    assert (whole - net.start.mean(0)).norm(dim=-1).mean() > 0.05
    torch.testing.assert_close(found, whole, atol=5e-3, rtol=0)
    assert coarse.item() == pytest.approx(Pixel2Mesh(net).loss_terms(batch)["loss"].item(), rel=0.02)


def scores_of(training: Pixel2Mesh, batch) -> dict[str, float]:
    with torch.no_grad():
        return score(training.reconstruct(batch), ground_truth(batch), samples=2000, seed=0)


def test_training_bends_the_sphere_to_a_shape():
    batch = batch_of("ellipsoid")
    training = Pixel2Mesh(network(subdivisions=1))
    before = scores_of(training, batch)
    optimizer = torch.optim.Adam(training.network.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = training.loss_terms(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = scores_of(training, batch)
    assert losses[-1] < 0.4 * losses[0]
    assert after["iou"] > 0.85 > before["iou"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": [4, 4, 8]}, r"model\.channels must be six positive numbers"),
        ({"hidden": 0}, r"model\.hidden one"),
        ({"layers": [4, 4, 1]}, r"model\.layers must be 3 numbers, at least 2 each"),
        ({"subdivisions": -1}, r"model\.subdivisions must not be negative"),
        ({"radius": 2.0}, r"model\.radius must be between 0 and model\.depth=1\.8, got 2\.0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        network(**options)


def test_wrong_weights_are_refused():
    with pytest.raises(ValueError, match=r"method\.move must not be negative, got -1"):
        Pixel2Mesh(network(), move=-1)
    with pytest.raises(ValueError, match=r"method\.unit must be positive, got 0"):
        Pixel2Mesh(network(), unit=0)
    with pytest.raises(ValueError, match=r"this method trains a MeshNetwork, not a Linear: model=pix2mesh"):
        Pixel2Mesh(nn.Linear(1, 1))


def test_shapes_without_cameras_and_other_inputs_are_refused():
    data = solids("box")
    Pixel2Mesh(network()).prepare(data)
    data.parts["test"] = replace(data.parts["test"], cameras=None, intrinsics=None)
    with pytest.raises(ValueError, match=r"this method needs pictures whose cameras are known: cameras\.npz"):
        Pixel2Mesh(network()).prepare(data)
    with pytest.raises(ValueError, match=r"dataset\.inputs=image"):
        MeshNetwork("voxels", 1)
