"""Description of the columns of a click log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from datasets.ctr.transforms import TRANSFORMS

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Field:
    """One categorical input of the models.

    Args:
        name: name of the field.
        column: column of the source that the field is made from; None: the column of the same name.
        transform: name of a function of `TRANSFORMS` that maps raw values to categories; None: raw values.
        min_count: values with fewer occurrences become out-of-vocabulary; None: the threshold of the schema.
    """

    name: str
    column: str | None = None
    transform: str | None = None
    min_count: int | None = None

    @property
    def source(self) -> str:
        """Name of the column that the field is made from."""
        return self.column or self.name


@dataclass(frozen=True)
class Schema:
    """Columns of a click log.

    Args:
        label: column of the label; None: the file has none.
        fields: inputs, in the order in which the models see them.
        columns: names of all columns of a file without a header; None: the first line names them.
        separator: character between two columns of a text file, one byte.
        positive_above: a row is positive if the label is above this number; None: the label must be 0 or 1.
        quoted: whether text files may put values between double quotes.
    """

    label: str | None
    fields: tuple[Field, ...]
    columns: tuple[str, ...] | None = None
    separator: str = "\t"
    positive_above: float | None = None
    quoted: bool = False

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not names:
            raise ValueError("dataset.fields is empty: name at least one field")
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"dataset.fields names {', '.join(sorted(repeated))} more than once")
        if self.label in [field.source for field in self.fields]:
            raise ValueError(f"dataset.label={self.label} is one of dataset.fields: leave it out of the inputs")
        if len(self.separator.encode()) != 1 or self.separator in '\n\r"':
            raise ValueError(f"dataset.separator must be one ASCII character, got {self.separator!r}")
        for field in self.fields:
            if field.transform is not None and field.transform not in TRANSFORMS:
                choices = ", ".join(TRANSFORMS)
                raise ValueError(f"transform {field.transform} of field {field.name} is unknown; choose from {choices}")
        if self.columns is not None:
            self.check_columns(list(self.columns), "the schema")

    @property
    def sources(self) -> list[str]:
        """Columns that are read, each once: the label, then those of the fields."""
        label = [] if self.label is None else [self.label]
        return list(dict.fromkeys([*label, *(field.source for field in self.fields)]))

    def check_columns(self, columns: list[str], where: str) -> None:
        """Raise ValueError if a column that the schema needs is missing or there twice.

        Args:
            columns: columns that are there.
            where: name of the file or object that has them, for the message.
        """
        if absent := [name for name in self.sources if name not in columns]:
            raise ValueError(f"{where} has no column {', '.join(absent)}; its columns are {', '.join(columns)}")
        if repeated := [name for name in self.sources if columns.count(name) > 1]:
            raise ValueError(f"{where} has more than one column {', '.join(repeated)}: which one is meant?")

    def with_min_counts(self, min_counts: Mapping[str, int]) -> Schema:
        """Return the schema with other thresholds of some fields.

        Args:
            min_counts: `min_count` by name of the field.

        Raises:
            ValueError: a name is that of no field.
        """
        if unknown := set(min_counts) - {field.name for field in self.fields}:
            raise ValueError(f"dataset.min_counts names {', '.join(sorted(unknown))}, which is no field")
        changed = (replace(field, min_count=min_counts.get(field.name, field.min_count)) for field in self.fields)
        return replace(self, fields=tuple(changed))

    def describe(self) -> dict[str, Any]:
        """Return the schema as plain Python values, for the manifest and the address of the prepared data."""
        return asdict(self)


def check_id_range(total: int) -> None:
    """Raise ValueError if ids of so many feature values do not fit into int32.

    Args:
        total: number of feature values of all fields together.
    """
    if total > INT32_MAX:
        raise ValueError(
            f"the vocabulary has {total} feature values, and ids are int32 (at most {INT32_MAX}): "
            "raise dataset.min_count, or leave out a field"
        )
