"""Checks of a model that is to be pruned, before and while its weights are loaded."""

from __future__ import annotations

from typing import Any

from datasets.checks import check_count, check_not_negative
from methods.architectures.language import LanguageModel
from methods.esparse.decoder import Decoder, check_finite
from methods.esparse.patterns import Pattern
from methods.esparse.probing import describe
from methods.esparse.streaming import check_checkpoint


def check_precision(trainer: Any) -> None:
    """Raise ValueError if the Trainer would compute a part of the run in another precision than the model's dtype."""
    if trainer.precision != "32-true":
        raise ValueError(
            f"trainer.precision={trainer.precision} does not fit this method, which computes in the dtype of the "
            "model: leave trainer.precision=32-true and set model.dtype"
        )


def check_batches(tokens_per_batch: int, input_cache_gib: float) -> None:
    """Raise ValueError if the sizes of batches or of the cache of inputs are none."""
    check_count("method", tokens_per_batch=tokens_per_batch)
    check_not_negative("method", input_cache_gib=input_cache_gib)


def check_columns(source: LanguageModel, pattern: Pattern, sparse_backend: str | None = None) -> None:
    """Check that the columns of all matrices fit the pattern, and the GPU's 2:4 kernels where they are used.

    Args:
        source: source of the model.
        pattern: sparsity pattern.
        sparse_backend: kernels that the pruned model is evaluated with; None: none.

    Raises:
        ValueError: if the columns of a matrix do not fit.
    """
    sets = [s for kind in describe(source.config).kinds for s in kind]
    for name, columns in dict.fromkeys((s.name, s.columns) for s in sets):
        described = f"the input of {name} of {source.path}"
        pattern.check(described, columns)
        if sparse_backend and columns % 4:
            raise ValueError(
                f"{described} has {columns} columns, which is no multiple of 4: method.sparse_backend cannot "
                "compute with a remainder; set method.sparse_backend=null"
            )


def check_streamable(source: LanguageModel, data: Any) -> None:
    """Check that a model can be read block by block.

    Args:
        source: source of the model.
        data: DataModule of texts.

    Raises:
        ValueError: if the model is no folder, the data have zero-shot tasks, or tensors do not fit.
        FileNotFoundError: if files are missing.
    """
    if source.folder is None:
        raise ValueError(
            f"method.stream reads safetensors from a folder, and {source.path} is none: "
            "give the folder with model.path=<folder>"
        )
    if data.tasks:
        raise ValueError(
            "method.stream never holds the whole model, which zero-shot tasks need: set dataset.zeroshot=[]"
        )
    check_checkpoint(source.folder, source.config, source.dtype)


def load_checked(source: LanguageModel) -> Decoder:
    """Return the model of a source, with all weights in memory.

    Raises:
        ValueError: if weights are NaN or infinite.
        FileNotFoundError: if files are missing or damaged.
    """
    decoder = Decoder(source.load())
    check_finite(decoder.model.named_parameters())
    return decoder
