"""Predictions for files of click logs, compared with the network on the prepared rows of the same file."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from datasets.ctr.datamodule import ClickTable, Criteo
from datasets.ctr.prediction import predict_clicks
from datasets.ctr.prepare import load_vocabularies
from datasets.download import CorruptData

HEADER = "click,site,hour,price"


def write_log(path: Path, rows: int = 400, seed: int = 0) -> list[str]:
    """Write a log of three fields and return its lines, without the header."""
    draw = np.random.default_rng(seed)
    lines = [
        f"{draw.integers(2)},s{draw.zipf(1.5) % 40},{draw.integers(24)},{draw.integers(9) or ''}" for _ in range(rows)
    ]
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return lines


class Summed(nn.Module):
    """Logit of a row: sum of a weight for each of its ids."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.weights = nn.Embedding(values, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weights(ids).sum((1, 2))


@pytest.fixture
def data(tmp_path) -> ClickTable:
    write_log(tmp_path / "log.csv")
    split = {"kind": "temporal", "val": 0.25, "test": 0.25}
    fields = ["site", "hour", "price"]
    data = ClickTable("log.csv", "click", fields, min_count=2, split=split, root=tmp_path, block_bytes=2000)
    data.setup()
    return data


@pytest.fixture
def network(data) -> Summed:
    torch.manual_seed(0)
    return Summed(sum(data.sizes)).requires_grad_(False)


def out_folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def expected(data, network) -> np.ndarray:
    """Return the probabilities of all rows by the loaders of the data, in the order of the file."""
    shards = [data.shards[part][0] for part in ("train", "val", "test")]
    return torch.cat([network(shard.ids).double().sigmoid() for shard in shards]).numpy()


def test_rows_of_the_training_file_get_what_the_loader_gives(data, network, tmp_path) -> None:
    (file,) = predict_clicks([tmp_path / "log.csv"], out_folder(tmp_path), network, data)
    rows = read(file)
    assert [int(row["row"]) for row in rows] == list(range(1, 401))
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected(data, network), abs=1e-6)
    labels = torch.cat([data.shards[part][0].labels for part in ("train", "val", "test")])
    assert [int(row["label"]) for row in rows] == labels.tolist()


def test_tables_of_one_name_are_kept_apart(data, network, tmp_path) -> None:
    text = (tmp_path / "log.csv").read_text().splitlines()
    for name, lines in (("monday", text[:11]), ("tuesday", text[:6])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text("\n".join(lines) + "\n")
    given = [tmp_path / name / "log.csv" for name in ("monday", "tuesday")]
    written = predict_clicks(given, out_folder(tmp_path), network, data)
    assert [path.name for path in written] == ["monday_log.csv", "tuesday_log.csv"]
    assert [len(read(path)) for path in written] == [10, 5]


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_files_without_labels_get_the_same_probabilities(kind, data, network, tmp_path) -> None:
    lines = [line.partition(",")[2] for line in (tmp_path / "log.csv").read_text().splitlines()]
    path = tmp_path / f"new.{kind}"
    if kind == "parquet":
        import polars as pl

        columns = zip(*(line.split(",") for line in lines[1:]), strict=True)
        pl.DataFrame(dict(zip(lines[0].split(","), columns, strict=True))).with_columns(
            pl.col("price").replace("", None)
        ).write_parquet(path)
    else:
        (gzip.open if kind.endswith("gz") else open)(path, "wt").write("\n".join(lines) + "\n")
    (file,) = predict_clicks([path], out_folder(tmp_path), network, data)
    rows = read(file)
    assert list(rows[0]) == ["row", "probability"]
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected(data, network), abs=1e-6)


def test_values_that_training_never_saw_are_told(data, network, tmp_path, caplog) -> None:
    path = tmp_path / "new.csv"
    path.write_text("hour,site,price\n3,nowhere,1\n3,s1,1\n")
    with caplog.at_level("INFO"):
        (file,) = predict_clicks([path], out_folder(tmp_path), network, data)
    assert "new.csv: values that are rare or were not seen in training: site 50.00%" in caplog.text
    unknown = data.sizes[0] - 1
    price_and_hour = read(file)[0]["probability"]
    names = [field.name for field in data.plan().schema.fields]
    assert names == ["site", "hour", "price"]
    vocabularies = load_vocabularies(data.plan())
    ids, offset = [unknown], data.sizes[0]
    for name, value in (("hour", "3"), ("price", "1")):
        ids.append(offset + vocabularies[name]["value"].to_list().index(value))
        offset += vocabularies[name].height + 1
    assert float(price_and_hour) == pytest.approx(float(network(torch.tensor([ids])).sigmoid()), abs=1e-6)


def test_a_file_without_header_may_lack_the_label(tmp_path) -> None:
    draw = np.random.default_rng(0)
    rows = [[str(draw.integers(2)), *map(str, draw.integers(0, 30, 39))] for _ in range(50)]
    (tmp_path / "criteo").mkdir()
    (tmp_path / "criteo" / "train.txt").write_text("".join("\t".join(row) + "\n" for row in rows))
    (tmp_path / "test.txt").write_text("".join("\t".join(row[1:]) + "\n" for row in rows))
    data = Criteo(min_count=1, root=tmp_path, vocab_from="all")
    data.setup()
    torch.manual_seed(0)
    network = Summed(sum(data.sizes)).requires_grad_(False)
    given = [tmp_path / "criteo" / "train.txt", tmp_path / "test.txt"]
    labelled, bare = map(read, predict_clicks(given, out_folder(tmp_path), network, data))
    assert [row["label"] for row in labelled] == [row[0] for row in rows]
    assert [row["probability"] for row in bare] == [row["probability"] for row in labelled]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("site,hour\ns1,2\n", "has no column price"),
        ("site,hour,price\ns1,2\n", "line 2: 2 columns, expected 3"),
        ("site,hour,price\n", "has no rows"),
    ],
)
def test_files_that_do_not_fit_are_refused(text, message, data, network, tmp_path) -> None:
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises((ValueError, CorruptData), match=message):
        predict_clicks([tmp_path / "new.csv"], out_folder(tmp_path), network, data)
    assert not list((tmp_path / "out").iterdir())
