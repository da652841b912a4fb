"""Describe the module tree of a network as JSON, and build the network again from that.

A compressed network is no longer what its class builds: channels are gone, layers are factors. So its description holds
each module's class and plain attributes and the shapes of its tensors, and building it runs no constructor and no
code of the file. Classes come from torch.nn and this project only.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

ALLOWED = ("torch.nn.modules.", "methods.")
_OWN = set(nn.Module().__dict__)  # what torch keeps in every module


def describe(module: nn.Module) -> dict[str, Any]:
    """Return the description of a network: classes, plain attributes, shapes; JSON-compatible.

    Raises:
        ValueError: a module is of a foreign class, or holds an attribute that is no plain value.
    """
    cls = type(module)
    path = f"{cls.__module__}:{cls.__qualname__}"
    if not path.startswith(ALLOWED):
        raise ValueError(f"a network with the module {path} cannot be written to a file: it is no module of torch.nn")
    attributes = {}
    for name, value in vars(module).items():
        if name in _OWN or name.startswith("_backward") or name.startswith("_forward"):
            continue
        attributes[name] = _encode(value, f"{cls.__qualname__}.{name}")
    tensors: dict[str, Any] = {}
    for name, parameter in module._parameters.items():
        tensors[name] = None if parameter is None else {"kind": "parameter", **_shape(parameter)}
    for name, buffer in module._buffers.items():
        kind = "transient" if name in module._non_persistent_buffers_set else "buffer"
        tensors[name] = None if buffer is None else {"kind": kind, **_shape(buffer)}
    none_kinds = {name: "parameter" for name, p in module._parameters.items() if p is None}
    children = {name: None if child is None else describe(child) for name, child in module._modules.items()}
    return {"class": path, "attributes": attributes, "tensors": tensors, "none": none_kinds, "children": children}


def build(description: dict[str, Any]) -> nn.Module:
    """Return the network of a description, in eval mode, with empty (zero) tensors.

    Raises:
        ValueError: the description names a class that is not allowed or does not exist.
    """
    cls = _class(str(description["class"]))
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, value in description["attributes"].items():
        object.__setattr__(module, name, _decode(value))
    for name, spec in description["tensors"].items():
        if spec is None:
            register = module.register_parameter if name in description["none"] else module.register_buffer
            register(name, None)
            continue
        tensor = torch.zeros(spec["shape"], dtype=getattr(torch, spec["dtype"]))
        if spec["kind"] == "parameter":
            module.register_parameter(name, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
        else:
            module.register_buffer(name, tensor, persistent=spec["kind"] == "buffer")
    for name, child in description["children"].items():
        module.add_module(name, None if child is None else build(child))
    return module.eval()


def all_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, those that a state dict leaves out included.

    A tensor that two modules share comes under both names: the network of a file has two.
    """
    parts = network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    return {name: t.detach() for part in parts for name, t in part}


@torch.no_grad()
def fill(network: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Copy tensors into a network and return it.

    Raises:
        ValueError: a tensor is missing or has another shape: the file is of another architecture.
    """
    own = all_tensors(network)
    if own.keys() != tensors.keys():
        lacking, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise ValueError(f"the file is of another architecture: it lacks {lacking[:3]} and has {unknown[:3]} instead")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            wanted, found = list(tensor.shape), list(tensors[name].shape)
            raise ValueError(f"the file is of another architecture: {name} has the shape {found}, not {wanted}")
        tensor.copy_(tensors[name])
    return network


def _class(path: str) -> type[nn.Module]:
    module, _, name = path.partition(":")
    if not path.startswith(ALLOWED):
        raise ValueError(f"the file names the class {path}, which is no network module of torch or of this project")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the file names the class {path}, which does not exist here") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"the file names {path}, which is no network module")
    return found


def _shape(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _encode(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encode(item, place) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, place), _encode(v, place)] for k, v in value.items()]}
    raise ValueError(f"{place} of type {type(value).__name__} cannot be written to a file")


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "dict":
        return {_decode(k): _decode(v) for k, v in items}
    return (tuple if kind == "tuple" else list)(_decode(item) for item in items)
