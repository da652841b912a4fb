"""Official layouts: transforms against the published rules, real samples where they are at hand."""

from __future__ import annotations

import datetime
import math

import pytest

pl = pytest.importorskip("polars")

from datasets.ctr.datamodule import KDD12, Avazu, ClickTable, Criteo, Frappe, MovieLens100K  # noqa: E402
from datasets.ctr.layouts import AVAZU_COLUMNS, KDD12_COLUMNS, avazu_schema, criteo_schema  # noqa: E402
from datasets.ctr.prepare import load_vocabularies  # noqa: E402
from datasets.ctr.transforms import TRANSFORMS  # noqa: E402
from datasets.download import CorruptData, MissingData  # noqa: E402


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


@pytest.mark.parametrize(
    "stamp", ["2014102107", "14102199", "14102124", "1410210", "14102a07", "", "1410210٣", "14130100"]
)
def test_other_times_than_yymmddhh_are_unknown(stamp):
    for name in ("weekday", "is_weekend"):
        assert apply(name, [stamp]) == [None]
    if stamp != "14130100":  # the hour does not look at the date
        assert apply("hour_of_day", [stamp]) == [None]


def test_integers_of_64_bits_stay_apart():
    large = 2**53
    values = [None, "7", "7.0", "07", "-3", "1e3", str(large), str(large + 1), f"{large + 1}.0", str(2**63 - 1)]
    numbers = ["7", "7", "7", "-3", "1000", str(large), str(large + 1), str(large + 1), str(2**63 - 1)]
    assert apply("integer", values) == [None, *numbers]
    assert apply("integer", ["1.7", "x", "nan", "inf", str(2**63), "1e300"]) == [None] * 6


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


def prepared_table(folder, text: str | bytes, name: str = "log.csv", **options):
    """DataModule over a table with label y and input a."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    data = ClickTable(name, "y", **{"fields": ["a"], "root": folder, "vocab_from": "all"} | options)
    data.setup()
    return data


def rows_of(values: list[str]) -> str:
    return "y,a\n" + "".join(f"{i % 2},{values[i % len(values)]}\n" for i in range(60))


def test_separators_of_lines_in_other_alphabets_are_part_of_values(tmp_path):
    """str.splitlines() would cut at each of them."""
    values = [f'"u{mark}v"' for mark in ("\u2028", "\u0085", "\x0b", "\x1c", "\r")]
    assert prepared_table(tmp_path, rows_of(values)).sizes == [6]


@pytest.mark.parametrize(("separator", "name"), [(";", "log.csv"), ("\t", "log.tsv"), ("|", "log.csv")])
def test_quotes_go_with_every_separator(tmp_path, separator, name):
    text = "".join(f'{i % 2}{separator}"u{separator}{i % 3}""w"\r\n' for i in range(60))
    options = {"columns": ["y", "a"], "separator": separator, "quoted": True}
    assert prepared_table(tmp_path, text, name, **options).sizes == [4]
    with pytest.raises(CorruptData, match="line 1: 3 columns, expected 2"):
        prepared_table(tmp_path, text, name, **options | {"quoted": False})


def test_a_quote_that_stays_open_is_named(tmp_path):
    with pytest.raises(CorruptData, match=r"log\.csv, line 62: a double quote is open"):
        prepared_table(tmp_path, rows_of(["u"]) + '1,"v\n0,w\n')
    with pytest.raises(CorruptData, match=r"log\.csv, line 2 or one of the 60 after it: "):
        prepared_table(tmp_path, rows_of(["u"]) + '1,"v"w"x"\n'.replace('"x"', 'x"" y'))


def test_an_empty_number_between_quotes_is_missing(tmp_path):
    data = prepared_table(tmp_path, rows_of(['""', '"1.0"', "1", ""]), transforms={"a": "integer"})
    assert data.sizes == [3]  # missing, 1, unseen


def test_bad_values_are_named_with_their_line(tmp_path):
    with pytest.raises(CorruptData, match=r"log\.csv, line 4: transform integer of column a does not take '1\.7'"):
        prepared_table(tmp_path, rows_of(["1", "2", "1.7"]), transforms={"a": "integer"})
    with pytest.raises(CorruptData, match=r"log\.csv, line 3 is not UTF-8"):
        prepared_table(tmp_path, rows_of(["a", "é"]).encode("latin-1"))
    with pytest.raises(CorruptData, match=r"log\.csv, line 1 is not UTF-8"):
        prepared_table(tmp_path, rows_of(["a"]).replace("a", "é", 1).encode("latin-1"))


def test_times_of_a_split_are_checked_and_need_not_be_inputs(tmp_path):
    lines = ["y,a,t", *(f"{i % 2},{i % 3},{i}" for i in range(60))]
    split = {"kind": "temporal", "column": "t", "val": 0.1, "test": 0.2}
    data = prepared_table(tmp_path, "\n".join(lines), split=split)
    assert [len(data.shards[part][0].labels) for part in ("train", "val", "test")] == [42, 6, 12]
    for value in ("", "1.5", "soon"):
        with pytest.raises(CorruptData, match=r"line 31: dataset\.split\.column t is .* expected a whole number"):
            prepared_table(tmp_path, "\n".join([*lines[:30], f"1,1,{value}", *lines[30:]]), split=split)
    with pytest.raises(ValueError, match="has no column u"):
        prepared_table(tmp_path, "\n".join(lines), split=split | {"column": "u"})


def test_columns_that_are_ambiguous_are_refused(tmp_path):
    with pytest.raises(ValueError, match="more than one column a"):
        prepared_table(tmp_path, "y,a,a\n1,2,3\n")
    with pytest.raises(ValueError, match=r"dataset\.label=y is one of dataset\.fields"):
        prepared_table(tmp_path, "y,a\n1,2\n", fields=["a", "y"])
    with pytest.raises(ValueError, match="one ASCII character"):
        prepared_table(tmp_path, "y||a\n1||2\n", separator="||")


def test_names_of_fields_may_hold_slashes(tmp_path):
    text = "y,per/day,per%2Fday\n" + "".join(f"{i % 2},{i % 3},{i % 5}\n" for i in range(60))
    data = prepared_table(tmp_path, text, fields=["per/day", "per%2Fday"])
    assert data.sizes == [4, 6]
    assert [v.height for v in load_vocabularies(data.plan()).values()] == [3, 5]


def test_thresholds_of_single_fields(tmp_path):
    text = "y,a,b\n" + "".join(f"{i % 2},{i % 3},{i % 5}\n" for i in range(60))
    data = prepared_table(tmp_path, text, fields=["a", "b"], min_counts={"a": 50})
    assert data.sizes == [1, 6]
    with pytest.raises(ValueError, match=r"dataset\.min_counts names c"):
        prepared_table(tmp_path, text, min_counts={"c": 50})


def test_a_split_by_files_needs_files(tmp_path):
    with pytest.raises(ValueError, match="needs a data set with a file for each part"):
        prepared_table(tmp_path, rows_of(["1"]), split={"kind": "files"})
    for split in ({"sort": "random"}, "random"):
        with pytest.raises(ValueError, match=r"dataset\.split"):
            prepared_table(tmp_path, rows_of(["1"]), split=split)


def test_parquet_takes_boolean_labels_and_names_what_it_cannot_take(tmp_path):
    frame = pl.DataFrame({"y": [i % 2 == 0 for i in range(60)], "a": [i % 3 for i in range(60)]})
    frame.write_parquet(tmp_path / "log.parquet")
    data = ClickTable("log.parquet", "y", ["a"], root=tmp_path)
    data.setup()
    assert sum(int(shards[0].labels.sum()) for shards in data.shards.values()) == 30
    frame.with_columns(a=[[1]] * 60).write_parquet(tmp_path / "lists.parquet")
    with pytest.raises(CorruptData, match=r"lists\.parquet: column a is of type .*list"):
        ClickTable("lists.parquet", "y", ["a"], root=tmp_path).setup()
    frame.with_columns(y=pl.lit("2")).write_parquet(tmp_path / "two.parquet")
    with pytest.raises(CorruptData, match=r"two\.parquet, row 1: label y is '2', expected 0 or 1"):
        ClickTable("two.parquet", "y", ["a"], root=tmp_path).setup()
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "log.parquet").read_bytes()[:100])
    with pytest.raises(CorruptData, match=r"torn\.parquet is no readable parquet file"):
        ClickTable("torn.parquet", "y", ["a"], root=tmp_path).setup()


def test_movielens_is_joined_anew_when_its_files_change(tmp_path):
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "u.item").write_text("".join(f"{i}|t|01-Jan-199{i}||u|{'|'.join('1' * 19)}\n" for i in range(3)))
    with pytest.raises(MissingData, match=r"put u\.data, u\.user into"):
        MovieLens100K(root=tmp_path).prepare_data()
    (folder / "u.user").write_text("".join(f"{i}|30|M|job|zip\n" for i in range(4)))
    for count in (40, 60):
        (folder / "u.data").write_text("".join(f"{i % 4}\t{i % 3}\t{i % 5 + 1}\t0\n" for i in range(count)))
        data = MovieLens100K(root=tmp_path)
        data.setup()
        assert sum(len(shards[0].labels) for shards in data.shards.values()) == count


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
