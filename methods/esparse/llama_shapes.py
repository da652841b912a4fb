"""Memory of a LLaMA's weights, dense and 2:4, computed from their shapes."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningModule
from torch import nn

from datasets.checks import check_choice, check_count
from methods.esparse.compression import matrix_bytes

VOCABULARY = 32000
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class LlamaShapes(nn.Module):
    """Shapes of a LLaMA-1 without its weights.

    Args:
        hidden_size: width of the model.
        intermediate_size: width of the MLP's hidden layer.
        num_layers: number of blocks.
    """

    tasks = ("matrix-products",)

    def __init__(self, hidden_size: int, intermediate_size: int, num_layers: int) -> None:
        super().__init__()
        check_count("model", hidden_size=hidden_size, intermediate_size=intermediate_size, num_layers=num_layers)
        self.hidden_size, self.intermediate_size, self.num_layers = hidden_size, intermediate_size, num_layers

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each matrix product of a block, by name; matrices with the same input are joined."""
        d, d_ff = self.hidden_size, self.intermediate_size
        return {"qkv": (3 * d, d), "out": (d, d), "gate_up": (2 * d_ff, d), "down": (d, d_ff)}

    @property
    def dense_weights(self) -> int:
        """Number of weights that are not pruned: embeddings, head, norms."""
        return 2 * VOCABULARY * self.hidden_size + (2 * self.num_layers + 1) * self.hidden_size

    @property
    def pruned_weights(self) -> int:
        """Number of weights of the matrices that are pruned."""
        return self.num_layers * sum(rows * columns for rows, columns in self.products.values())

    def dense_bytes(self, itemsize: int) -> int:
        """Return the bytes of all weights; itemsize: bytes of a weight."""
        return itemsize * (self.dense_weights + self.pruned_weights)

    def compressed_bytes(self, itemsize: int) -> int:
        """Return the bytes of all weights with 2:4 matrices compressed; itemsize: bytes of a weight."""
        matrices = sum(matrix_bytes(*shape, itemsize) for shape in self.products.values())
        return itemsize * self.dense_weights + self.num_layers * matrices

    @property
    def permutation_bytes(self) -> int:
        """Bytes of the permutations, one int32 per channel of each product's input."""
        return 4 * self.num_layers * sum(columns for _, columns in self.products.values())


def weight_memory(shapes: LlamaShapes, itemsize: int) -> dict[str, float]:
    """Compute the metrics of `WeightMemory`, by name without the split; itemsize: bytes of a weight."""
    dense, compressed = shapes.dense_bytes(itemsize), shapes.compressed_bytes(itemsize)
    return {
        "dense_gib": dense / 2**30,
        "sparse_gib": compressed / 2**30,
        "saved": 1 - compressed / dense,
        "saved_shuffled": 1 - (compressed + shapes.permutation_bytes) / dense,
    }


def find_dtype(name: str) -> torch.dtype:
    """Return the 16-bit dtype of that name. Raise ValueError for another one."""
    check_choice("method.dtype", name, tuple(DTYPES))
    return DTYPES[name]


class WeightMemory(LightningModule):
    """Memory of all weights of a LLaMA.

    Metrics: `test/dense_gib`, `test/sparse_gib` (2:4 with 2-bit indices); `test/saved` and, with the permutations of
    the channel shuffle stored as indices, `test/saved_shuffled`, as fractions.

    Args:
        network: shapes of the weights.
        dtype: dtype of the weights, "float16" or "bfloat16".

    Raises:
        ValueError: if the dtype is unknown.
    """

    tasks = ("matrix-products",)

    def __init__(self, network: LlamaShapes, dtype: str = "float16") -> None:
        super().__init__()
        self.shapes, self.itemsize = network, find_dtype(dtype).itemsize

    def test_step(self, tokens: int, index: int) -> None:
        """Do nothing: the number of tokens does not change the memory of the weights."""

    def on_test_epoch_end(self) -> None:
        """Log all metrics."""
        metrics = weight_memory(self.shapes, self.itemsize)
        self.log_dict({f"test/{name}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()})
