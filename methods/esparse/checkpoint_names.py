"""Names and layouts of a model's tensors in a checkpoint, where transformers holds them in another form in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from methods.esparse.description import Model
from methods.esparse.shards import Shards


def to_checkpoint(model: Model, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as a checkpoint stores them: by other names, or experts one by one. Works without storage too.

    Args:
        model: causal LM of transformers.
        tensors: tensors by their names in the model.
    """
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, dict(tensors)))


def from_checkpoint(model: Model, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of a checkpoint in the form that the model holds them in; the inverse of `to_checkpoint`.

    Args:
        model: causal LM of transformers.
        tensors: tensors by their names in the checkpoint.
        expected: tensors of the model that these make, by their names in the model; without storage.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    rules = get_model_conversion_mapping(model, add_legacy=False)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    result: dict[str, Tensor] = {}
    collected: dict[str, Any] = {}
    for source, tensor in sorted(tensors.items(), key=lambda item: dot_natural_key(item[0])):
        if source in expected:
            result[source] = tensor
            continue
        target, pattern = rename_source_key(source, renamings, converters)
        if pattern is None:
            result[target] = tensor
            continue
        converter = collected.setdefault(target, copy.deepcopy(by_pattern[pattern]))
        converter.add_tensor(target, source, pattern, tensor)
    for target, converter in collected.items():
        for name, tensor in converter.convert(target, model=model, config=model.config).items():
            result[name] = tensor[0] if isinstance(tensor, list) else tensor
    return result


def stored_name(shards: Shards, model: Model, name: str) -> str:
    """Return the name of a tensor in the files, which some published checkpoints store without the model's prefix.

    Args:
        shards: files.
        model: causal LM of transformers.
        name: name of the tensor in a checkpoint that transformers writes.
    """
    short = name.removeprefix(f"{model.base_model_prefix}.")
    return short if name not in shards.files and short in shards.files else name
