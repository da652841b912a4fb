"""Schemas of an experiment file's nodes `table` and `figure`: every key, with its type and range."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from runner.config.schema import Node, validate


def _text(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise ValueError("must be a single value")
    return str(value)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, str | list | tuple):
        raise ValueError("must be a name or a list")
    return (value,) if isinstance(value, str) else tuple(value)


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of values to labels")
    return {_text(key): _text(label) for key, label in value.items()}


def _for_metrics(kind: Any, least: float, words: str) -> Callable[[Any], Any]:
    """Return a check of a number, or of one for each metric."""

    def check(value: Any) -> Any:
        numbers: list[Any] = list(value.values()) if isinstance(value, dict) else [value]
        for number in numbers:
            if not isinstance(number, kind) or isinstance(number, bool) or not least <= number < math.inf:
                raise ValueError(f"must be {words}, or a mapping of metrics to such")
        return value

    return check


Text = Annotated[Any, AfterValidator(_text)]
Names = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)]
Labels = Annotated[Any, AfterValidator(_texts)]


class Reported(Node):
    """Figure of the paper in a table."""

    row: Text
    column: Text
    value: float
    std: float | None = None
    mark: Literal["seen", "recalled", "derived"] = "seen"


class TableNode(Node):
    """Node `table`; see `TableSpec`."""

    rows: Annotated[Names, Field(min_length=1)]
    metric: Annotated[Names, Field(min_length=1)]
    reduce: str
    columns: Names = ()
    title: str = ""
    source: str = ""
    main: Text = None
    scale: Annotated[Any, AfterValidator(_for_metrics(int | float, -sys.float_info.max, "a number"))] = 1
    digits: Annotated[Any, AfterValidator(_for_metrics(int, 0, "a whole number of at least 0"))] = None
    labels: Labels = None
    reported: Annotated[tuple[Reported, ...], BeforeValidator(_as_tuple)] = ()
    notes: Names = ()


class ReportedPoints(Node):
    """Points of the paper in a figure."""

    panel: Text
    line: Names
    x: list[float]
    y: list[float]

    @model_validator(mode="after")
    def _alike(self) -> ReportedPoints:
        if len(self.x) != len(self.y):
            raise ValueError("x and y must have the same number of values")
        return self


class FigureNode(Node):
    """Node `figure`; see `FigureSpec`."""

    panels: str
    lines: Annotated[Names, Field(min_length=1)]
    metric: str
    x: str = "step"
    title: str = ""
    source: str = ""
    labels: Labels = None
    reported: Annotated[tuple[ReportedPoints, ...], BeforeValidator(_as_tuple)] = ()
    colour_order: Names = ()


def read_node(model: type[Node], node: Any, name: str) -> dict[str, Any]:
    """Return the keys that a node gives, checked; names as tuples of text. Keys that are null count as left out.

    Raises:
        UserError: a key is missing or unknown, or its value does not fit.
    """
    given = {key: value for key, value in node.items() if value is not None} if isinstance(node, dict) else node
    return validate(model, given, name)
