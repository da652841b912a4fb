"""Scores that come from beyond a layer's input: gradients (Pruner-Zero), and masks that were learned (MaskLLM)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datasets.hub import from_cache_or_hub
from methods.esparse.decoder import Decoder
from methods.esparse.description import Description, matrix
from methods.esparse.input_statistics import InputStatistics, RequiredStatistics
from methods.esparse.patterns import NM, Pattern

COMPRESSED_MASKS = "mask_compressed.npz"  # name of the file in MaskLLM's repositories on the hub
NAMES_IN_MESSAGE = 3


class MatrixScore:
    """Score that depends on which matrix it is for."""

    required = RequiredStatistics()
    whole_model = False  # whether `begin` needs the model in memory

    def check(self, description: Description, pattern: Pattern) -> None:
        """Raise ValueError or FileNotFoundError if the score cannot be had for a model."""

    def begin(self, decoder: Decoder, calibration: Tensor, track: Callable[[range, str], Iterable[int]]) -> None:
        """Compute what the scores need of the dense model."""

    def of(self, name: str, weight: Tensor) -> Tensor:
        """Return the scores (R, C) of a weight (R, C); name: of the matrix in the model."""
        raise NotImplementedError

    def __call__(self, weight: Tensor, inputs: InputStatistics) -> Tensor:
        """Raise RuntimeError: the name of the matrix is needed, see `of`."""
        raise RuntimeError("this score needs the name of the matrix")


class PrunerZero(MatrixScore):
    """Metric that Pruner-Zero found by genetic programming (Dong et al. 2024, arXiv 2406.02924).

    The score is w^2 times the min-max scaled G, with G the root of the sum over calibration windows of the squared
    gradient of the loss. The gradients are those of the dense model.

    Args:
        windows: number of calibration windows that gradients are computed on; None: all.
    """

    whole_model = True

    def __init__(self, windows: int | None = None) -> None:
        if windows is not None and windows < 1:
            raise ValueError(f"method.score.windows must be positive or null, got {windows}")
        self.windows = windows
        self.gradients: dict[str, Tensor] = {}

    def begin(self, decoder: Decoder, calibration: Tensor, track: Callable[[range, str], Iterable[int]]) -> None:
        """Compute G of every matrix."""
        windows = calibration if self.windows is None else calibration[: self.windows]
        with torch.inference_mode(False), torch.enable_grad():
            self.gradients = gradient_norms(decoder, windows.clone(), track)

    def of(self, name: str, weight: Tensor) -> Tensor:
        """Return the scores (R, C) of a weight (R, C)."""
        gradient = self.gradients[name].to(weight.device)
        span = (gradient.max() - gradient.min()).clamp(min=torch.finfo(torch.float32).tiny)
        return weight.float().square() * ((gradient - gradient.min()) / span)


class GivenMasks(MatrixScore):
    """Masks from a checkpoint of MaskLLM (Fang et al. 2024, arXiv 2409.17481): 1 for weights to keep, 0 for others.

    Args:
        path: `.npz` file with the packed bits of each mask, `.pt` file with the masks, or id of a repository on the hub
            with `mask_compressed.npz`. A mask has the name of its parameter, with `.mask` somewhere in it or not.
    """

    def __init__(self, path: str | None) -> None:
        if not path:
            raise ValueError("method.score.path is not set: give a file of masks, .npz or .pt, or an id on the hub")
        self.path = path
        self.masks: dict[str, Any] = {}

    def check(self, description: Description, pattern: Pattern) -> None:
        """Read the file and check that it has a mask for every matrix."""
        if not isinstance(pattern, NM):
            raise ValueError("masks from a file are N:M masks: set method.pattern, and method.ratio=null")
        self.pattern = pattern
        self.masks = read_masks(self.path)
        missing = [name for name in matrix_names(description) if f"{name}.weight" not in self.masks]
        if missing:
            named = ", ".join(missing[:NAMES_IN_MESSAGE]) + ", ..." * (len(missing) > NAMES_IN_MESSAGE)
            raise ValueError(f"method.score.path={self.path} has no masks for {len(missing)} matrices: {named}")

    def of(self, name: str, weight: Tensor) -> Tensor:
        """Return the mask (R, C) of a weight (R, C) as float32.

        Raises:
            ValueError: if it has another size, or is not N:M.
        """
        mask = unpack_mask(self.masks[f"{name}.weight"], weight.numel())
        if mask.numel() != weight.numel():
            raise ValueError(f"method.score.path={self.path}: the mask of {name} has another size than the weight")
        scores = mask.reshape(weight.shape).to(weight.device, torch.float32)
        whole = scores.shape[1] - scores.shape[1] % self.pattern.m
        if (scores[:, :whole].unflatten(1, (-1, self.pattern.m)).sum(2) != self.pattern.n).any():
            raise ValueError(f"method.score.path={self.path}: the mask of {name} is not {self.pattern}")
        return scores


def matrix_names(description: Description) -> list[str]:
    """Return the names of all matrices of a model."""
    return [
        f"{description.prefix}{i}.{name}"
        for i, sets in enumerate(description.block_sets)
        for s in sets
        for name in s.linears
    ]


def gradient_norms(
    decoder: Decoder, windows: Tensor, track: Callable[[range, str], Iterable[int]]
) -> dict[str, Tensor]:
    """Return the root of the sum over windows of the squared gradient of the loss, (R, C) for each matrix by its name.

    Args:
        decoder: model in memory.
        windows: (windows, L) tokens.
        track: shows the progress over the windows.
    """
    model = decoder.model
    parameters = {name: parameter_of(model, name) for name in matrix_names(decoder.architecture)}
    owners = list({id(parameter): parameter for parameter in parameters.values()}.values())
    sums = {id(parameter): torch.zeros(parameter.shape) for parameter in owners}
    for parameter in owners:
        parameter.requires_grad_(True)
    for i in track(range(len(windows)), "gradients, window"):
        window = windows[i : i + 1].to(decoder.device)
        logits = model.forward(input_ids=window, use_cache=False).logits[0, :-1].float()
        grads = torch.autograd.grad(cross_entropy(logits, window[0, 1:]), owners, allow_unused=True)
        for parameter, grad in zip(owners, grads, strict=True):
            if grad is not None:  # None: no token has reached the experts
                sums[id(parameter)] += grad.float().square().cpu()
    for parameter in owners:
        parameter.requires_grad_(False)
    roots = {key: value.sqrt() for key, value in sums.items()}
    return {name: _as_matrix(model, name, roots[id(parameter)]) for name, parameter in parameters.items()}


def parameter_of(model: Any, name: str) -> nn.Parameter:
    """Return the parameter that a matrix is, or lies in."""
    if name.endswith("]"):
        return model.get_parameter(name.rpartition("[")[0])
    return model.get_submodule(name).weight


def _as_matrix(model: Any, name: str, values: Tensor) -> Tensor:
    """Return the part of values of a parameter's shape that belongs to a matrix, as (R, C)."""
    weight = matrix(model, name)
    parameter = parameter_of(model, name)
    offset = weight.storage_offset() - parameter.storage_offset()
    return values.contiguous().as_strided(weight.shape, weight.stride(), offset)


def read_masks(path: str) -> dict[str, Any]:
    """Read masks by the name of their parameter; packed bits as uint8 arrays, others as tensors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged.
    """
    import numpy as np

    file = Path(path).expanduser()
    if not file.exists() and path.count("/") == 1 and not path.endswith((".npz", ".pt")):
        from huggingface_hub import hf_hub_download

        try:
            file = Path(from_cache_or_hub(hf_hub_download, repo_id=path, filename=COMPRESSED_MASKS))
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"method.score.path={path}: {COMPRESSED_MASKS} could not be had: {error}"
            ) from error
    if not file.is_file():
        raise FileNotFoundError(f"method.score.path={path} is no file: give an .npz or .pt file of masks")
    try:
        if file.suffix == ".pt":
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        else:
            with np.load(file, allow_pickle=False) as arrays:
                loaded = {name: arrays[name] for name in arrays.files}
    except Exception as error:
        raise ValueError(f"method.score.path={path} could not be read as masks: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(mask, Tensor | np.ndarray) for mask in loaded.values()):
        raise ValueError(f"method.score.path={path} holds no masks by the names of their parameters")
    return {str(name).replace(".mask", ""): mask for name, mask in loaded.items()}


def unpack_mask(mask: Any, size: int) -> Tensor:
    """Return the mask as a flat bool tensor; size: number of weights, behind which packed bits are filled up."""
    import numpy as np

    if isinstance(mask, Tensor):
        return mask.flatten().bool()
    return torch.from_numpy(np.unpackbits(mask)[: max(size, 0)].astype(bool))
