"""Schema of the root config: every key outside the groups, with its type and range."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from runner.errors import UserError

TARGET = r"^[A-Za-z_][\w.]*$"  # a dotted name


class Node(BaseModel):
    """Node of the config whose keys are all known and have values of one type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Paths(Node):
    """Folders of data and of results."""

    data: str = Field(min_length=1)
    outputs: str = Field(min_length=1)


class Loader(Node):
    """Loading of data."""

    workers: int = Field(ge=0)


class Checkpoint(Node):
    """Keeping of checkpoints."""

    keep: bool
    every_seconds: float = Field(ge=0, allow_inf_nan=False)


class Figures(Node):
    """Figures of runs, tables and experiments."""

    format: list[Literal["png", "pdf", "svg"]] = Field(min_length=1)


class Need(Node):
    """Run that makes a checkpoint for this one."""

    run: list[str]
    same: list[str] = []


class RootConfig(Node):
    """Root config of a run, without the contents of its groups."""

    seed: int = Field(ge=0, lt=2**32)
    schedule: dict[str, Any]
    stages: list[Literal["fit", "test"]] = Field(min_length=1)
    needs: dict[str, list[str] | Need]
    init_from: str | None = Field(min_length=1)
    alias: str | None = Field(pattern=r"^[\w.+-]{1,64}$")
    paths: Paths
    loader: Loader
    threads: int = Field(ge=0, le=1024)
    compile: bool
    smoke: bool
    rerun: bool
    wait: bool
    checkpoint: Checkpoint
    figures: Figures
    tags: list[str]
    callbacks: dict[str, dict[str, Any] | None]
    trainer: dict[str, Any]
    logger: dict[str, Any]
    method: dict[str, Any]
    dataset: dict[str, Any]
    model: dict[str, Any]
    vars: dict[str, Any]

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: list[str]) -> list[str]:
        if stages != sorted(set(stages), key=["fit", "test"].index):
            raise ValueError("give each stage once, fit before test")
        return stages


def check_root(cfg: DictConfig) -> None:
    """Check the root config of a run.

    Args:
        cfg: config of a run, without Hydra's node and those of tables, figures and sweeps.

    Raises:
        UserError: a key is unknown, missing, or has a value of a wrong type or out of range.
    """
    _check_keys(cfg, "")
    groups = ("trainer", "logger", "method", "dataset", "model", "callbacks")  # their contents may hold interpolations
    content = {str(key): _contents(cfg, str(key), resolve=key not in groups) for key in cfg}
    validate(RootConfig, content)


def validate(model: type[Node], content: Any, name: str = "") -> dict[str, Any]:
    """Return the keys that a node gives, checked.

    Args:
        model: schema of the node.
        content: node as plain Python.
        name: key of the node, for messages.

    Raises:
        UserError: a key is unknown, missing, or has a value of a wrong type or out of range.
    """
    try:
        return model.model_validate(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise UserError("\n".join(_describe(detail, model, name) for detail in error.errors())) from None


def _check_keys(node: Any, name: str) -> None:
    """Check that the keys of each node are of one kind, so that an id can be made of them. Raises UserError."""
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
        if len({type(key) for key in node}) > 1:
            raise UserError(f"{name}: keys must be all text or all numbers, got {', '.join(map(repr, node))}")
        for key in node:
            _check_keys(node._get_node(key), f"{name}.{key!s}" if name else str(key))


def _contents(cfg: DictConfig, key: str, resolve: bool) -> Any:
    value = cfg[key]
    if not isinstance(value, DictConfig | ListConfig):
        return value
    return OmegaConf.to_container(value, resolve=resolve)


def _describe(detail: Any, model: type[BaseModel], name: str) -> str:
    """Return one line for an error of pydantic: key, what is wrong, value."""
    parts = [str(part) for part in detail["loc"] if not re.match(r"^(list\[|function-|Need$)", str(part))]
    key = ".".join([name, *parts] if name else parts)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key}; known at this place: {', '.join(_known(model, detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    value = repr(detail["input"])
    return f"{key}: {message}, got {value if len(value) <= 80 else value[:77] + '...'}"


def _known(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        if field := model.model_fields.get(str(part)):
            model = _model_in(field.annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the schema that an annotation is, or that its lists, mappings or unions hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
