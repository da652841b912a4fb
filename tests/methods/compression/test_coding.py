"""Huffman codes, relative indices, k-means, and files of compressed networks."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.architectures.cifar_resnet import CifarResNet
from methods.compression.artifacts import load_network, save_safetensors
from methods.compression.coding import huffman
from methods.compression.coding.dcz import DamagedFile, encode_network, load_dcz, save_dcz
from methods.compression.coding.deep_compression import Centroids, DeepCompression, compression_rate, layer_bits
from methods.compression.coding.encoding import choose_layout, decode_tensor, encode_tensor
from methods.compression.coding.kmeans import kmeans_1d
from methods.compression.coding.sparse_index import absolute_index, entries, relative_index
from methods.compression.measure import storage_bits
from methods.compression.pruning.masks import smallest
from methods.compression.structure import all_tensors, build, describe, fill
from tests.methods.compression.problems import NONE, ONE, context, dense, dims, randomized


@settings(max_examples=40)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=300))
def test_huffman_codes_are_decoded_and_as_short_as_huffmans(symbols):
    symbols = np.array(symbols)
    counts = np.bincount(symbols, minlength=21)
    lengths = huffman.code_lengths(counts)
    data = huffman.encode(symbols, lengths)
    np.testing.assert_array_equal(huffman.decode(data, lengths, len(symbols)), symbols)
    heap = [int(c) for c in counts if c]  # the cost of an optimal code is the sum of all merged counts
    heapq.heapify(heap)
    cost = len(symbols) if len(heap) == 1 else 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        cost += merged
        heapq.heappush(heap, merged)
    assert huffman.encoded_bits(symbols, 21) == cost
    assert len(data) == -(-cost // 8)


def test_huffman_codes_are_canonical():
    codes = huffman.canonical_codes(np.array([2, 1, 3, 3], dtype=np.uint8))
    assert codes.tolist() == [0b10, 0b0, 0b110, 0b111]


def test_damaged_huffman_data_is_refused():
    symbols = np.arange(16).repeat(3)
    lengths = huffman.code_lengths(np.bincount(symbols))
    with pytest.raises(ValueError, match="ends too early"):
        huffman.decode(huffman.encode(symbols, lengths)[:-2], lengths, len(symbols))
    with pytest.raises(ValueError, match="no prefix code"):
        huffman.canonical_codes(np.array([1, 1, 1], dtype=np.uint8))


@settings(max_examples=40)
@given(st.sets(st.integers(0, 5000), max_size=60), st.integers(1, 8))
def test_relative_indices_give_the_places_back(places, bits):
    positions = np.array(sorted(places), dtype=np.int64)
    gaps, numbers = relative_index(positions, bits)
    assert gaps.max(initial=0) < 2**bits
    assert len(gaps) == entries(positions, bits)
    np.testing.assert_array_equal(absolute_index(gaps)[numbers >= 0], positions)


def test_a_gap_that_does_not_fit_gets_a_filler():
    gaps, numbers = relative_index(np.array([1, 4, 15]), 3)  # the paper's figure 2: the last gap is 11
    assert gaps.tolist() == [1, 2, 7, 2]
    assert numbers.tolist() == [0, 1, -1, 2]


def test_kmeans_is_that_of_scikit_learn():
    from sklearn.cluster import KMeans

    values = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    ours = kmeans_1d(values, 4, iterations=300)
    first = np.linspace(float(values.min()), float(values.max()), 4)[:, None]
    theirs = KMeans(4, init=first, n_init=1, tol=0).fit(values.numpy()[:, None])
    np.testing.assert_allclose(ours.centroids, np.sort(theirs.cluster_centers_[:, 0]), atol=1e-4)


def test_kmeans_of_few_different_numbers_is_exact():
    values = torch.tensor([1.0, 2.0, 1.0, 5.0])
    clusters = kmeans_1d(values, 8)
    torch.testing.assert_close(clusters.centroids[clusters.assignment], values)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(40, 50, generator=generator)
    sparse = plain * smallest(plain.abs(), 1800)
    return {
        "raw": plain,
        "sparse": sparse,
        "shared": (plain * 3).round(),
        "sparse_shared": (sparse * 3).round(),
        "all zero": torch.zeros(40, 50),
        "integers": torch.arange(200),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
    }


@pytest.mark.parametrize("name", tensors())
@pytest.mark.parametrize("use_huffman", [True, False])
def test_encoded_tensors_come_back_bit_by_bit(name, use_huffman):
    tensor = tensors()[name]
    encoded = encode_tensor(tensor, use_huffman=use_huffman)
    back = decode_tensor(encoded)
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)
    size = len(encoded.values) + sum(len(stream.data) for stream in encoded.streams.values())
    if use_huffman:
        assert 8 * size <= encoded.layout.bits + 16
    else:
        assert encoded.layout.bits <= 8 * size < encoded.layout.bits + 16  # streams end in whole bytes
    if name in ("raw", "sparse", "shared", "sparse_shared"):
        assert encoded.layout.kind == name


def test_the_rate_of_weight_sharing_is_the_papers_example():
    assert compression_rate(16, 32, 4) == pytest.approx(3.2)  # 16 weights, 4 shared: 16 * 32 / (4 * 32 + 2 * 16)


@pytest.mark.parametrize(("density", "size", "rate"), [(0.08, 235_200, 3.1), (0.09, 30_000, 3.8), (0.26, 1000, 15.7)])
def test_rates_of_deep_compressions_table_2_follow_from_densities_and_bits(density, size, rate):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, generator=generator)
    kept = weight * smallest(weight.abs(), int((1 - density) * size))
    clusters = kmeans_1d(kept[kept != 0], 63)
    kept[kept != 0] = clusters.centroids[clusters.assignment]
    numbers = layer_bits(kept, 6, 5)
    assert 100 * numbers["bits_pq"] / (32 * size) == pytest.approx(rate, rel=0.12)
    assert numbers["bits_pqh"] < numbers["bits_pq"]


def test_the_gradient_of_a_centroid_is_that_of_the_codebook():
    network = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 3))
    centroids = Centroids(network, {"0": 3}, "linear", 20, 0)
    kept, assignment, count = centroids.places["0"]
    weight = network[0].weight
    codebook = torch.stack([weight.detach().view(-1)[kept][assignment == c][0] for c in range(count)]).requires_grad_()
    x = torch.randn(8, 20)
    network(x).square().sum().backward()
    centroids.share_gradients(network)
    hidden = torch.tanh(x @ codebook[assignment].view(30, 20).T + network[0].bias)
    network[2](hidden).square().sum().backward()
    expected = codebook.grad[assignment].view(30, 20)
    torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-4)


def test_deep_compression_shares_weights_and_keeps_zeros():
    network = dense()
    layer = network.layers[3]
    layer.weight.data.mul_(smallest(layer.weight.detach().abs(), 800))
    out = DeepCompression(bits_conv=3, bits_fc=3, recipe=ONE)(network, context())
    assert int((out.layers[3].weight == 0).sum()) == 800
    assert len(out.layers[3].weight.unique()) <= 8
    assert len(out.layers[0].weight.unique()) <= 8


def test_a_dcz_file_gives_the_network_back(tmp_path):
    network = DeepCompression(4, 4, recipe=NONE)(dense(), context())
    size = save_dcz(tmp_path / "net.dcz", network, notes={"stage": "x"})
    assert size == (tmp_path / "net.dcz").stat().st_size
    back, notes = load_dcz(tmp_path / "net.dcz")
    assert notes == {"stage": "x"}
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(back(x), network.eval()(x))
    for name, tensor in all_tensors(network).items():
        assert torch.equal(all_tensors(back)[name], tensor), name
    without = len(encode_network(network, use_huffman=False))
    assert abs(8 * without - storage_bits(network)) < 8 * 2000  # the header


def test_tied_and_half_precision_weights_come_back(tmp_path):
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).to(torch.bfloat16)
    network[2].weight = network[0].weight
    save_dcz(tmp_path / "net.dcz", network)
    back = load_dcz(tmp_path / "net.dcz")[0]
    x = torch.rand(2, 8, dtype=torch.bfloat16)
    assert torch.equal(back(x), network(x))
    assert storage_bits(network) == 16 * 2 * (64 + 8)


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign", "empty"])
def test_a_damaged_dcz_file_is_refused(tmp_path, damage):
    path = tmp_path / "net.dcz"
    save_dcz(path, dense())
    content = bytearray(path.read_bytes())
    if damage == "torn":
        content = content[:-100]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(b"" if damage == "empty" else b"PK" + bytes(99) if damage == "foreign" else bytes(content))
    with pytest.raises(DamagedFile, match=r"torn|damaged|no \.dcz"):
        load_dcz(path)


def test_a_network_is_built_from_its_description():
    network = randomized(CifarResNet(depth=8, width=4, **dims()))
    back = fill(build(describe(network)), all_tensors(network))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(back(x), network(x))
    assert back.state_dict().keys() == network.state_dict().keys()  # mean and std stay outside


def test_weights_of_another_architecture_are_refused():
    one, other = CifarResNet(depth=8, width=4, **dims()), CifarResNet(depth=8, width=8, **dims())
    with pytest.raises(ValueError, match="another architecture"):
        fill(build(describe(one)), all_tensors(other))
    with pytest.raises(ValueError, match="another architecture"):
        fill(build(describe(one)), all_tensors(dense()))


def test_foreign_classes_are_neither_written_nor_built():
    class Own(nn.Module):
        pass

    with pytest.raises(ValueError, match="no module of torch"):
        describe(Own())
    for path in ("os:system", "methods.plots:plot_epoch_curves", "methods.nothing:Net"):
        with pytest.raises(ValueError, match="the file names"):
            build({"class": path, "attributes": {}, "tensors": {}, "none": {}, "children": {}})


def test_safetensors_hold_structure_and_weights(tmp_path):
    network = dense().eval()
    save_safetensors(tmp_path / "net.safetensors", network)
    back, _ = load_network(tmp_path / "net.safetensors")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(back(x), network(x))


def test_unknown_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown format"):
        load_network(tmp_path / "net.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        load_network(tmp_path / "net.dcz")


def test_layouts_are_the_smallest():
    dense_weight = torch.randn(100, 100)
    assert choose_layout(dense_weight).bits == 320_000
    half = dense_weight * smallest(dense_weight.abs(), 9000)
    assert choose_layout(half).bits < 1000 * 40
