"""Description of the columns of a click log."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
        label: column of the label.
        fields: inputs, in the order in which the models see them.
        columns: names of all columns of a file without a header; None: the first line names them.
        separator: character between two columns of a text file.
        positive_above: a row is positive if the label is above this number; None: the label must be 0 or 1.
        quoted: whether text files may put values between double quotes.
    """

    label: str
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
        for field in self.fields:
            if field.transform is not None and field.transform not in TRANSFORMS:
                choices = ", ".join(TRANSFORMS)
                raise ValueError(f"transform {field.transform} of field {field.name} is unknown; choose from {choices}")
        if self.columns is not None:
            self.check_columns(list(self.columns), "the schema")

    @property
    def sources(self) -> list[str]:
        """Columns that are read, each once: the label, then those of the fields."""
        return list(dict.fromkeys([self.label, *(field.source for field in self.fields)]))

    def check_columns(self, columns: list[str], where: str) -> None:
        """Raise ValueError if a column that the schema needs is missing.

        Args:
            columns: columns that are there.
            where: name of the file or object that has them, for the message.
        """
        if absent := [name for name in self.sources if name not in columns]:
            raise ValueError(f"{where} has no column {', '.join(absent)}; its columns are {', '.join(columns)}")

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
