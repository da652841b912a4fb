"""Description of any decoder-only transformer, found by running one short window without its weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from methods.esparse.description import Block, Description, InputSet, Model, add_known_parts, is_transposed, name_sets
from methods.esparse.stand_ins import BlockArguments, block_inputs

WINDOW = 4  # tokens
GATES = ("gate", "router", "shared_expert_gate")  # modules that choose experts, whose layers stay dense
NAMES_IN_MESSAGE = 3
ADVICE = (
    "To add this type, let methods/esparse/probing.py find its blocks and which matrices share an input, and what is "
    "known of its norms in methods/esparse/description.py (KNOWN)."
)


def empty_model(config: Any, dtype: torch.dtype) -> Model:
    """Return the model without storage for its weights. Tables that it computes itself are there.

    Args:
        config: transformers config.
        dtype: dtype of the weights.

    Raises:
        ValueError: if transformers has no decoder-only model of this type, or cannot make it of this config.
    """
    from transformers import AutoModelForCausalLM

    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"models of type {config.model_type} cannot be pruned: they have an encoder and a decoder")
    try:
        with torch.device("meta"):
            model: Model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
        model.tie_weights()
        fill_tables(model, model)
    except Exception as error:  # transformers checks few of a config's values
        if isinstance(error, ValueError) and "Unrecognized configuration class" in str(error):
            reason = "transformers has no decoder-only language model of this type"
        else:
            reason = f"one with this config.json could not be made ({type(error).__name__}: {_first_line(error)})"
        raise ValueError(f"models of type {config.model_type} cannot be pruned: {reason}") from error
    return model.eval().requires_grad_(False)


def fill_tables(model: Model, part: Any) -> None:
    """Compute buffers that no checkpoint stores (tables of rotary embeddings, scales of embeddings).

    Args:
        model: model whose weights are not yet loaded.
        part: module whose buffers are filled: the model, or a copy of a block of it.
    """
    for module in part.modules():
        stored = module._non_persistent_buffers_set
        names = [name for name, b in module.named_buffers(recurse=False) if b.is_meta and name in stored]
        for name in names:
            module._buffers[name] = torch.zeros_like(module._buffers[name], device="cpu")
        if names:
            model._init_weights(module)


def describe(config: Any) -> Description:
    """Describe the blocks of a model.

    Args:
        config: transformers config.

    Raises:
        ValueError: if the model is no decoder-only transformer, or has weights that are no matrices of linear layers.
    """
    return _describe(config.model_type, repr(sorted(config.to_dict().items(), key=str)), _Uncompared(config))


class _Uncompared:
    """Value that a cache ignores."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Uncompared)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=64)
def _describe(model_type: str, settings: str, config: _Uncompared) -> Description:
    """Describe the model; `model_type` and `settings` identify the config."""
    model = empty_model(config.value, torch.float32)
    try:
        return _probe(model, model_type)
    except (RuntimeError, TypeError, AttributeError, KeyError, IndexError, ArithmeticError) as error:
        raise ValueError(
            f"models of type {model_type} cannot be pruned: their blocks could not be run one by one "
            f"({_first_line(error)}). {ADVICE}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@torch.no_grad()
def _probe(model: Model, model_type: str) -> Description:
    tokens = torch.zeros(1, WINDOW, dtype=torch.long)
    for path, blocks in _block_lists(model):
        trunk_name, _, name = path.rpartition(".")
        trunk = model.get_submodule(trunk_name)
        setattr(trunk, name, nn.ModuleList())
        _store_as_zeros(model)
        setattr(trunk, name, blocks)
        hidden, arguments = _reach(model, trunk, name, blocks, tokens)
        if hidden is not None:
            break
    else:
        raise ValueError(f"models of type {model_type} cannot be pruned: no list of equal blocks was found. {ADVICE}")
    kinds: dict[str, tuple[tuple[InputSet, ...], int]] = {}
    found = []
    for block, given in zip(blocks, arguments, strict=True):
        kind = str(block) + str([(n, p.shape) for n, p in block.named_parameters()])
        if kind not in kinds:
            kinds[kind] = _probe_block(block, hidden, given, model_type)
        found.append(kinds[kind])
    return Description(trunk_name, name, tuple(sets for sets, _ in found), found[0][1])


def _reach(model: Model, trunk: Any, name: str, blocks: nn.ModuleList, tokens: Tensor) -> tuple[Any, Any]:
    """Return `block_inputs`, whether the model takes the first of a tuple or all that its blocks return."""
    blocks_alone = list(blocks)
    try:
        return block_inputs(model, trunk, name, blocks_alone, 0, tokens)
    except (AttributeError, TypeError, RuntimeError, IndexError):  # hidden states were taken for a tuple
        return block_inputs(model, trunk, name, blocks_alone, 2, tokens)


def _block_lists(model: Model) -> list[tuple[str, nn.ModuleList]]:
    """Return the lists of equal modules that lie in no other such list, the longest first."""
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(m) for m in module}) == 1
    ]
    outer = [(p, m) for p, m in lists if not any(p.startswith(f"{other}.") for other, _ in lists)]
    return sorted(outer, key=lambda item: -len(item[1]))


def _store_as_zeros(model: Model) -> None:
    """Give weights without storage the value 0, all in the place of one number."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                module._parameters[name] = nn.Parameter(zeros, requires_grad=False)


def _to_meta(value: Any) -> Any:
    """Replace tensors in tuples, lists and dicts by ones without storage."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, tuple | list):
        return type(value)(_to_meta(item) for item in value)
    if isinstance(value, dict):
        return {key: _to_meta(item) for key, item in value.items()}
    return value


def _probe_block(
    block: Block, hidden: Tensor, arguments: BlockArguments, model_type: str
) -> tuple[tuple[InputSet, ...], int]:
    """Return the sets of a block without storage, and how many values it returns in a tuple or list (0: in neither)."""
    experts = {name: module for name, module in block.named_modules() if is_experts(module)}
    block = copy.deepcopy(block).to("meta")
    order: list[tuple[str, tuple[Any, ...]]] = []  # names of linear layers with the identity of their input
    alive: list[Tensor] = []

    def record(name: str, x: Tensor) -> None:
        alive.append(x)
        place = (x.untyped_storage()._cdata, x.storage_offset(), x.numel(), x.shape[-1], x.stride(-1), x._version)
        order.append((name, place))

    linears = {name: module for name, module in block.named_modules() if _is_linear(name, module)}
    for name, module in linears.items():
        module.register_forward_pre_hook(lambda _, args, name=name: record(name, args[0]))
    for name in experts:
        block.get_submodule(name).forward = lambda x, *args, **kwargs: torch.zeros_like(x)
    out = block(hidden.to("meta"), *_to_meta(arguments.positional), **_to_meta(arguments.keywords))
    _check_covered(block, linears.keys(), {name for name, _ in order}, experts.keys(), model_type)
    by_input: dict[tuple[Any, ...], list[str]] = {}
    for name, place in order:
        by_input.setdefault(place, []).append(name)
    groups = [tuple(names) for names in by_input.values()]
    named = zip(name_sets(groups), groups, strict=True)
    sets = tuple(InputSet(name, group, _columns(linears[group[0]])) for name, group in named)
    routed = tuple(s for name, module in experts.items() for s in _expert_sets(name, module))
    return add_known_parts(sets + routed, model_type), len(out) if isinstance(out, tuple | list) else 0


def _is_linear(name: str, module: nn.Module) -> bool:
    """Return whether a module is a linear layer to prune; those that choose experts are not."""
    return (isinstance(module, nn.Linear) or is_transposed(module)) and not _in_gate(name)


def _in_gate(name: str) -> bool:
    return not set(GATES).isdisjoint(name.split("."))


def _columns(layer: Any) -> int:
    return layer.weight.shape[0 if is_transposed(layer) else 1]


def is_experts(module: Any) -> bool:
    """Return whether a module holds the matrices of experts in three-dimensional parameters, as transformers does."""
    weights = [getattr(module, name, None) for name in (_first_parameter(module), "down_proj")]
    return hasattr(module, "_apply_gate") and all(isinstance(w, nn.Parameter) and w.dim() == 3 for w in weights)


def _first_parameter(experts: Any) -> str:
    return "gate_up_proj" if getattr(experts, "has_gate", True) else "up_proj"


def _expert_sets(name: str, experts: Any) -> Iterator[InputSet]:
    """Yield the sets of a module of experts: each expert's first matrix, and its second one."""
    first, prefix = _first_parameter(experts), f"{name}." if name else ""
    column = 1 if experts.is_transposed else 2
    hidden, inner = getattr(experts, first).shape[column], experts.down_proj.shape[column]
    count = len(experts.down_proj)
    chosen = getattr(experts.config, "num_experts_per_tok", None) or getattr(experts.config, "top_k", None) or count
    share = min(chosen / count, 1.0)
    for e in range(count):
        up, down = f"{prefix}{first}[{e}]", f"{prefix}down_proj[{e}]"
        common: dict[str, Any] = {"experts": name, "token_share": share}
        yield InputSet(f"expert_{e}", (up,), hidden, **common)
        yield InputSet(f"expert_{e}_out", (down,), inner, producers=(up,), **common)


def _check_covered(block: Block, linears: Any, reached: set[str], experts: Any, model_type: str) -> None:
    """Raise ValueError if a block has weights that are neither matrices of layers that ran nor of a known use."""
    if idle := [name for name in linears if name not in reached]:
        raise ValueError(
            f"models of type {model_type} cannot be pruned: some linear layers of a block are not called as layers "
            f"({_few(idle)}). {ADVICE}"
        )
    rest = [
        f"{path}.{name}"
        for path, module in block.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() > 1 and path not in linears and path not in experts and not _chooses_experts(path, module)
    ]
    if rest:
        raise ValueError(
            f"models of type {model_type} cannot be pruned: a block has weights that belong to no linear layer "
            f"({_few(rest)}), as state-space and convolutional blocks do. {ADVICE}"
        )


def _chooses_experts(path: str, module: nn.Module) -> bool:
    return _in_gate(path) or "Router" in type(module).__name__


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMES_IN_MESSAGE]) + ", ..." * (len(names) > NAMES_IN_MESSAGE)
