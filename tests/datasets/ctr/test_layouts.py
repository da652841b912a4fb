"""Official layouts: transforms against the published rules, real samples where they are at hand."""

from __future__ import annotations

import datetime
import math

import pytest

pl = pytest.importorskip("polars")

from datasets.ctr.datamodule import KDD12, Avazu, ClickTable, Criteo, Frappe, MovieLens100K  # noqa: E402
from datasets.ctr.layouts import AVAZU_COLUMNS, KDD12_COLUMNS, avazu_schema, criteo_schema  # noqa: E402
from datasets.ctr.transforms import TRANSFORMS  # noqa: E402
from datasets.download import MissingData  # noqa: E402


def apply(name: str, values: list[str | None]) -> list[str | None]:
    return pl.DataFrame({"x": values}, {"x": pl.String}).select(TRANSFORMS[name](pl.col("x")))["x"].to_list()


def test_log_squared_follows_the_published_table():
    values = [None, "-3", "0", "1", "2", "3", "4", "5", "10", "100", "1000", "2.0"]
    assert apply("log_squared", values) == [None, "-3", "0", "1", "2", "1", "1", "2", "5", "21", "47", "2"]


def test_log_squared_equals_the_formula_for_all_small_integers():
    values = range(3, 3000)
    assert apply("log_squared", list(map(str, values))) == [str(math.floor(math.log(v) ** 2)) for v in values]


def test_hours_of_avazu():
    stamps = [f"14{month:02d}{day:02d}{hour:02d}" for month, day, hour in ((10, 21, 0), (10, 25, 23), (10, 26, 7))]
    days = [datetime.datetime.strptime(stamp, "%y%m%d%H") for stamp in stamps]
    assert apply("hour_of_day", stamps) == [str(day.hour) for day in days]
    assert apply("weekday", stamps) == [day.strftime("%w") for day in days]
    assert apply("is_weekend", stamps) == ["0", "1", "1"]


def test_numbers_of_fields():
    assert len(criteo_schema().fields) == 39
    assert len(avazu_schema().fields) == 24
    assert len(AVAZU_COLUMNS) == 24


def test_kdd12_by_hand(tmp_path):
    folder = tmp_path / "kdd12"
    folder.mkdir()
    rows = ["\t".join([str(i % 3 % 2 * 2), *(str(i % (c + 2)) for c in range(11))]) for i in range(60)]
    (folder / "training.txt").write_text("\n".join(rows))  # no line end after the last row
    data = KDD12(root=tmp_path)
    data.setup()
    assert data.names == list(KDD12_COLUMNS[1:])
    assert sum(len(s.labels) for part in data.shards.values() for s in part) == 60
    assert sum(int(s.labels.sum()) for part in data.shards.values() for s in part) == 20
    dropped = KDD12(root=tmp_path, drop_impression=True)
    dropped.setup()
    assert dropped.names == list(KDD12_COLUMNS[2:])
    assert dropped.vocabulary != data.vocabulary


def test_criteo_sample(runner_data, tmp_path, monkeypatch):
    data = prepared(Criteo, runner_data, tmp_path, file="criteo_head10k.txt", min_count=2)
    assert len(data.names) == 39
    assert [len(data.shards[part][0].labels) for part in ("train", "val", "test")] == [8000, 1000, 1000]
    clicks = sum(int(shards[0].labels.sum()) for shards in data.shards.values())
    assert clicks == 2182


def test_avazu_sample(runner_data, tmp_path):
    data = prepared(Avazu, runner_data, tmp_path, file="avazu_head9k.csv", min_count=2)
    assert data.names[:4] == ["hour", "weekday", "is_weekend", "C1"]
    assert data.sizes[0] == 2  # one hour in the sample, and the id of unseen values


def test_frappe_sizes(runner_data, tmp_path):
    data = prepared(Frappe, runner_data, tmp_path, split={"kind": "files"}, vocab_from="all")
    assert [len(data.shards[part][0].labels) for part in ("train", "val", "test")] == [202_027, 57_722, 28_860]
    assert sum(data.sizes) - 10 == 5382
    assert int(data.shards["train"][0].labels.sum()) == 67_604


def test_movielens(runner_data, tmp_path):
    data = prepared(MovieLens100K, runner_data, tmp_path)
    assert sum(len(shards[0].labels) for shards in data.shards.values()) == 100_000
    assert data.names[:2] == ["user_id", "item_id"]
    assert abs(data.positive_rate("train") - 0.5537) < 0.01


def test_a_table_of_ones_own(tmp_path):
    (tmp_path / "log.csv").write_text("y,a,b\n" + "".join(f'{i % 2},{i % 4},"u,{i % 3}"\n' for i in range(100)))
    data = ClickTable("log.csv", "y", ["b", "a"], root=tmp_path)
    data.setup()
    assert data.names == ["b", "a"]
    assert data.sizes == [4, 5]
    with pytest.raises(ValueError, match="not among"):
        ClickTable("log.csv", "y", ["a"], {"c": "integer"}, root=tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(MissingData, match=r"criteo/train\.txt"):
        Criteo(root=tmp_path).prepare_data()


def prepared(cls, runner_data, tmp_path, **arguments):
    """DataModule over real files, whose prepared shards go to a folder of the test's own."""
    (tmp_path / "ctr").symlink_to(runner_data / "ctr")
    data = cls(root=tmp_path, **arguments)
    data.prepare_data()
    data.setup()
    return data
