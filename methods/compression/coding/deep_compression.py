"""Deep Compression (Han et al. 2016, arXiv 1510.00149): shared weights by k-means, tuned centroids, Huffman codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.checks import check_choice, check_not_negative
from methods.compression.coding import huffman
from methods.compression.coding.kmeans import INITS, kmeans_1d
from methods.compression.coding.sparse_index import relative_index
from methods.compression.layers import layer_of, selected_layers
from methods.compression.stage import SHARED, Context, Stage
from methods.compression.training import Recipe


def compression_rate(numel: int, weight_bits: int, clusters: int) -> float:
    """Return the rate of weight sharing without sparsity, n b / (n log2 k + k b) (the paper's equation 1).

    Args:
        numel: number of weights, n.
        weight_bits: bits of a weight, b.
        clusters: number of shared weights, k.
    """
    index_bits = max((clusters - 1).bit_length(), 1)
    return numel * weight_bits / (numel * index_bits + clusters * weight_bits)


def layer_bits(weight: Tensor, value_bits: int, index_bits: int) -> dict[str, float]:
    """Return the bits of a pruned layer of shared weights as the paper's tables count them.

    Args:
        weight: weight with zeros and few different other values.
        value_bits: bits of the number of a shared weight before Huffman coding.
        index_bits: bits of a gap between non-zero weights.

    Returns:
        weights, kept (number), bits_pq (fixed-length numbers, gaps, float32 codebook), bits_pqh (Huffman codes, with
        a byte a symbol for each table of lengths), value_bits_h and index_bits_h (mean length of a Huffman code).
    """
    flat = weight.detach().flatten().cpu().numpy()
    gaps, number = relative_index(np.flatnonzero(flat), index_bits)
    codebook = np.unique(flat)
    values = np.searchsorted(codebook, np.append(flat[flat != 0], np.float32(0))[number])
    size, book = len(gaps), 32 * 2**value_bits  # the tables count whole codebooks; the file stores what is used
    coded_values = huffman.encoded_bits(values, len(codebook))
    coded_gaps = huffman.encoded_bits(gaps, 2**index_bits)
    tables = 8 * (len(codebook) + 2**index_bits)
    return {
        "weights": float(flat.size),
        "kept": float((flat != 0).sum()),
        "bits_pq": float(size * (value_bits + index_bits) + book),
        "bits_pqh": float(coded_values + coded_gaps + book + tables),
        "value_bits_h": coded_values / max(size, 1),
        "index_bits_h": coded_gaps / max(size, 1),
    }


class Centroids:
    """Shared weights of a network during the training of their centroids.

    Args:
        network: network, whose weights are replaced by their centroids.
        bits: bits of a shared weight's number, by layer.
        init: initialisation of k-means.
        iterations: largest number of Lloyd's iterations.
        seed: seed of a random initialisation.
    """

    def __init__(self, network: nn.Module, bits: Mapping[str, int], init: str, iterations: int, seed: int) -> None:
        self.places: dict[str, tuple[Tensor, Tensor, int]] = {}
        for name, layer_bits_ in bits.items():
            weight = layer_of(network, name).weight
            flat = weight.detach().flatten()
            kept = flat.nonzero()[:, 0]
            shared = 2**layer_bits_ - 1 if len(kept) < len(flat) else 2**layer_bits_  # one number stands for zero
            clusters = kmeans_1d(flat[kept].cpu(), shared, init, iterations, seed)
            self.places[name] = kept, clusters.assignment.to(flat.device), len(clusters.centroids)
        self.project(network)

    @torch.no_grad()
    def project(self, network: nn.Module) -> None:
        """Give all weights of a cluster their mean. Weights that moved by equal steps stay exactly equal."""
        for name, (kept, assignment, count) in self.places.items():
            weight = layer_of(network, name).weight
            flat = weight.view(-1)
            sums = torch.zeros(count, dtype=torch.float64, device=flat.device)
            sums.index_add_(0, assignment, flat[kept].double())
            members = torch.bincount(assignment, minlength=count).clamp(min=1)
            centroids = (sums / members).float()
            centroids[centroids == 0] = torch.finfo(torch.float32).tiny  # a shared weight is never taken for pruned
            flat[kept] = centroids[assignment]

    @torch.no_grad()
    def share_gradients(self, network: nn.Module) -> None:
        """Replace the gradient of each weight by the sum over its cluster, the gradient of the centroid."""
        for name, (kept, assignment, count) in self.places.items():
            gradient = layer_of(network, name).weight.grad
            if gradient is None:
                continue
            flat = gradient.view(-1)
            sums = torch.zeros(count, dtype=flat.dtype, device=flat.device).index_add_(0, assignment, flat[kept])
            flat.zero_()
            flat[kept] = sums[assignment]


class DeepCompression(Stage):
    """Share the surviving weights of each layer by k-means, and train the centroids; Huffman codes are in the file.

    Pruning is a stage of its own, before this one: `pipeline: [prune_magnitude, deep_compression]`.

    Args:
        bits_conv: bits of a shared weight's number in convolutions.
        bits_fc: likewise in linear layers.
        bits: bits of single layers by name.
        index_bits: bits of a gap between non-zero weights, for the reported rates (the file takes the best).
        init: initialisation of k-means: linear, density or random.
        lloyd_iters: largest number of Lloyd's iterations.
        ignore: layers that stay as they are, see `selected_layers`.
        recipe: training of the centroids.
    """

    result = SHARED

    def __init__(
        self,
        bits_conv: int = 8,
        bits_fc: int = 5,
        bits: Mapping[str, int] | None = None,
        index_bits: int = 5,
        init: str = "linear",
        lloyd_iters: int = 50,
        ignore: Sequence[str] = (),
        recipe: Recipe | None = None,
    ) -> None:
        check_choice("init", init, INITS)
        check_not_negative("stage", lloyd_iters=lloyd_iters)
        self.bits_conv, self.bits_fc, self.bits = bits_conv, bits_fc, dict(bits or {})
        for name, value in {"bits_conv": bits_conv, "bits_fc": bits_fc, "index_bits": index_bits, **self.bits}.items():
            if not 1 <= value <= 12:
                raise ValueError(f"{name} must be in 1..12, got {value}")
        self.index_bits, self.init, self.lloyd_iters, self.ignore = index_bits, init, lloyd_iters, tuple(ignore)
        self.recipe = recipe or Recipe(2, 5e-5, schedule="constant", weight_decay=0.0)

    def layer_bits(self, network: nn.Module) -> dict[str, int]:
        """Return the bits of a shared weight's number by layer."""
        layers = selected_layers(network, self.ignore)
        for name in self.bits:
            if name not in layers:
                raise ValueError(f"bits: there is no layer {name}; layers: {', '.join(layers)}")
        default = {n: self.bits_conv if isinstance(m, nn.Conv2d) else self.bits_fc for n, m in layers.items()}
        return default | self.bits

    def check(self, network: nn.Module, data: Any) -> None:
        """Check the names of the layers."""
        self.layer_bits(network)

    def __call__(self, network: nn.Module, context: Context) -> nn.Module:
        """Share weights and train the centroids."""
        bits = self.layer_bits(network)
        centroids = Centroids(network, bits, self.init, self.lloyd_iters, context.seed)
        if self.recipe.epochs:
            context.train(
                network,
                self.recipe,
                after_backward=centroids.share_gradients,
                after_step=centroids.project,
            )
        self.report(network, bits, context)
        return network

    def report(self, network: nn.Module, bits: Mapping[str, int], context: Context) -> None:
        """Report the rates of the paper's tables, by layer and in total; biases are left out, as there."""
        totals = {"weights": 0.0, "kept": 0.0, "bits_pq": 0.0, "bits_pqh": 0.0}
        for name, value_bits in bits.items():
            numbers = layer_bits(layer_of(network, name).weight, value_bits, self.index_bits)
            for key in totals:
                totals[key] += numbers[key]
            dense = 32 * numbers["weights"]
            context.numbers |= {
                f"{name}/kept": numbers["kept"] / numbers["weights"],
                f"{name}/rate_pq": numbers["bits_pq"] / dense,
                f"{name}/rate_pqh": numbers["bits_pqh"] / dense,
                f"{name}/value_bits_h": numbers["value_bits_h"],
                f"{name}/index_bits_h": numbers["index_bits_h"],
            }
        dense = 32 * totals["weights"]
        context.numbers |= {
            "kept": totals["kept"] / totals["weights"],
            "times_p": totals["weights"] / totals["kept"],
            "times_pq": dense / totals["bits_pq"],
            "times_pqh": dense / totals["bits_pqh"],
            "kilobytes_pqh": totals["bits_pqh"] / 8000,
        }
