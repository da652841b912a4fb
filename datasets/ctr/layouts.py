"""Official layouts of published click logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.ctr.schema import Field, Schema
from datasets.ctr.transforms import import_polars
from datasets.download import CorruptData, MissingData
from datasets.files import atomic_write

if TYPE_CHECKING:
    import polars as pl

CRITEO_NUMERIC = tuple(f"I{i}" for i in range(1, 14))
CRITEO_CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))
AVAZU_COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain"),
    *("app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{i}" for i in range(14, 22)),
)
KDD12_COLUMNS = (
    *("Click", "Impression", "DisplayURL", "AdID", "AdvertiserID", "Depth", "Position", "QueryID", "KeywordID"),
    *("TitleID", "DescriptionID", "UserID"),
)
FRAPPE_FIELDS = (
    *("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"),
)
MOVIELENS_FIELDS = ("user_id", "item_id", "age", "gender", "occupation", "zip_code", "release_year", "genre")


def criteo_schema() -> Schema:
    """Return the schema of Criteo's `train.txt`: label, 13 numbers, 26 categories, tab-separated, no header.

    Numbers are discretised by `log_squared` and are exempt from the frequency threshold, as in the code of the
    paper's group.
    """
    numeric = (Field(name, transform="log_squared", min_count=1) for name in CRITEO_NUMERIC)
    fields = (*numeric, *(Field(name) for name in CRITEO_CATEGORICAL))
    return Schema("label", fields, ("label", *CRITEO_NUMERIC, *CRITEO_CATEGORICAL))


def avazu_schema() -> Schema:
    """Return the schema of Avazu's `train.csv`: 24 fields, of which three are made from the hour; `id` is left out."""
    times = (Field("hour", transform="hour_of_day"), Field("weekday", "hour", "weekday"))
    raw = (Field(name) for name in AVAZU_COLUMNS[3:])
    return Schema("click", (*times, Field("is_weekend", "hour", "is_weekend"), *raw), separator=",")


def kdd12_schema(drop_impression: bool = False) -> Schema:
    """Return the schema of `training.txt` of KDD Cup 2012, track 2: 11 fields; a row with a click is positive.

    Args:
        drop_impression: leave out the field Impression, which tells of the label: more impressions, more clicks.
    """
    names = KDD12_COLUMNS[2:] if drop_impression else KDD12_COLUMNS[1:]
    return Schema("Click", tuple(Field(name) for name in names), KDD12_COLUMNS, positive_above=0.0)


def frappe_schema() -> Schema:
    """Return the schema of Frappe_x1 of the BARS benchmark: a header, label and 10 fields of ids."""
    return Schema("label", tuple(Field(name) for name in FRAPPE_FIELDS), separator=",")


def movielens_schema() -> Schema:
    """Return the schema of the table that `join_movielens` writes: positive where the rating is above 3."""
    return Schema("rating", tuple(Field(name) for name in MOVIELENS_FIELDS), positive_above=3.0)


def table_schema(
    label: str,
    fields: Sequence[str],
    transforms: Mapping[str, str],
    columns: Sequence[str] | None = None,
    separator: str = ",",
    positive_above: float | None = None,
    quoted: bool | None = None,
) -> Schema:
    """Return the schema of a table of one's own.

    Args:
        label: column of the label.
        fields: columns that are inputs.
        transforms: transform of a field, by its name, for those that have one.
        columns: names of all columns if the file has no header.
        separator: character between two columns.
        positive_above: a row is positive if the label is above this number; None: the label is 0 or 1.
        quoted: whether values may stand between double quotes; None: unless columns are separated by tabs.

    Raises:
        ValueError: a transform is given for a column that is no field.
    """
    if unknown := set(transforms) - set(fields):
        raise ValueError(f"dataset.transforms names {', '.join(sorted(unknown))}, not among dataset.fields")
    chosen = tuple(Field(name, transform=transforms.get(name)) for name in fields)
    names = None if columns is None else tuple(columns)
    return Schema(label, chosen, names, separator, positive_above, separator != "\t" if quoted is None else quoted)


def movielens_files(folder: Path) -> tuple[Path, Path, Path]:
    """Return the files of ratings, users and films.

    Args:
        folder: official `u.data`, `u.user` and `u.item`, or RecBole's `ml-100k.inter`, `.user` and `.item`.

    Raises:
        MissingData: one of the three is missing.
    """
    official = [f"u.{kind}" for kind in ("data", "user", "item")]
    recbole = [f"ml-100k.{kind}" for kind in ("inter", "user", "item")]
    names = official if (folder / "u.item").exists() else recbole
    ratings, users, items = (folder / name for name in names)
    if absent := [path.name for path in (ratings, users, items) if not path.exists()]:
        raise MissingData(f"MovieLens-100k is not complete: put {', '.join(absent)} into {folder}")
    return ratings, users, items


def join_movielens(folder: Path, target: Path, drop_neutral: bool = False) -> Path:
    """Write MovieLens-100k as one table: a row for each rating, with the user's and the film's attributes.

    Args:
        folder: folder of `movielens_files`.
        target: table to write, tab-separated with a header.
        drop_neutral: leave out ratings of 3.
    """
    pl = import_polars()
    files = movielens_files(folder)
    ratings, users, items = (_official_movielens if files[2].name == "u.item" else _recbole)(*files)
    table = ratings.join(users, on="user_id", how="left", maintain_order="left")
    table = table.join(items, on="item_id", how="left", maintain_order="left")
    if drop_neutral:
        table = table.filter(pl.col("rating").cast(pl.Float64) != 3)
    with atomic_write(target) as temporary:
        table.select("rating", *MOVIELENS_FIELDS).write_csv(temporary, separator="\t", quote_style="never")
    return target


def _recbole(*files: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    ratings, users, items = map(_read, files)
    for frame in (ratings, users, items):
        frame.columns = [name.partition(":")[0] for name in frame.columns]
    return ratings, users, _with_genre(items, "class")


def _official_movielens(*files: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    pl = import_polars()
    ratings = _read(files[0], ["user_id", "item_id", "rating", "timestamp"])
    users = _read(files[1], ["user_id", "age", "gender", "occupation", "zip_code"], separator="|")
    names = ["item_id", "title", "date", "video", "url", *(f"g{i}" for i in range(19))]
    items = _read(files[2], names, separator="|")
    year = pl.col("date").str.extract(r"(\d{4})$").alias("release_year")
    first = pl.coalesce(pl.when(pl.col(f"g{i}") == "1").then(pl.lit(str(i))) for i in range(19)).alias("genre")
    return ratings, users, items.select("item_id", year, first)


def _with_genre(items: pl.DataFrame, column: str) -> pl.DataFrame:
    pl = import_polars()
    return items.select("item_id", "release_year", genre=pl.col(column).str.split(" ").list.first())


def _read(path: Path, columns: list[str] | None = None, separator: str = "\t") -> pl.DataFrame:
    pl = import_polars()
    options: dict[str, Any] = {"separator": separator, "quote_char": None, "infer_schema": False}
    if columns is not None:
        options |= {"has_header": False, "new_columns": columns, "encoding": "utf8-lossy"}
    try:
        return pl.read_csv(path, **options)
    except pl.exceptions.PolarsError as error:
        raise CorruptData(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
