"""Preparation of click logs against plain Python: vocabulary, ids, parts, resumption, bad input."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("polars")

from datasets.ctr.manifest import Manifest, verify
from datasets.ctr.prepare import Plan, Split, prepare
from datasets.ctr.schema import Field, Schema, check_id_range
from datasets.ctr.splits import PARTS, random_split
from datasets.download import CorruptData

FIELDS = ("number", "colour", "shape")


def write_rows(path: Path, rows: list[list[str]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def random_rows(count: int, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    colours = ["", "red", "red", "green", "blue", *map(str, range(200))]
    return [
        [str(draw.randrange(2)), draw.choice(["", str(draw.randrange(40))]), draw.choice(colours), draw.choice("abc")]
        for _ in range(count)
    ]


def make_plan(path: Path, folder: Path, **changes) -> Plan:
    fields = (Field("number", transform="log_squared", min_count=1), Field("colour"), Field("shape"))
    schema = Schema("click", fields, ("click", *FIELDS))
    values = {"split": Split(), "min_count": 3, "block_bytes": 2000, "sources": {"all": (path,)}} | changes
    return Plan("toy", folder, schema, **values)


def load(plan: Plan, manifest: Manifest, part: str) -> tuple[np.ndarray, np.ndarray]:
    shards = manifest.parts[part].shards
    ids = [np.load(plan.folder / f"{shard.path}.ids.npy") for shard in shards]
    return np.concatenate(ids), np.concatenate([np.load(plan.folder / f"{s.path}.labels.npy") for s in shards])


def bucket(text: str) -> str:
    if not text:
        return ""
    value = int(text)
    return str(value if value <= 2 else int(np.floor(np.log(value) ** 2)))


@pytest.mark.parametrize("vocab_from", ["train", "all"])
def test_ids_equal_a_dictionary_built_row_by_row(tmp_path, vocab_from):
    rows = random_rows(1500)
    plan = make_plan(write_rows(tmp_path / "log.txt", rows), tmp_path / "out", vocab_from=vocab_from)
    manifest = prepare(plan)
    parts = random_split(len(rows))
    offset = 0
    for number in range(3):
        column = [bucket(row[1]) if number == 0 else row[number + 1] for row in rows]
        counted = Counter(v for v, part in zip(column, parts, strict=True) if vocab_from == "all" or part == 0)
        least = 1 if number == 0 else 3
        kept = sorted((v for v, c in counted.items() if c >= least), key=lambda v: (-counted[v], v))
        expected = np.array([offset + (kept.index(v) if v in kept else len(kept)) for v in column])
        for index, part in enumerate(PARTS):
            ids, labels = load(plan, manifest, part)
            np.testing.assert_array_equal(ids[:, number], expected[parts == index])
            np.testing.assert_array_equal(labels, np.array([int(row[0]) for row in rows])[parts == index])
        assert manifest.fields[number].offset == offset
        assert manifest.fields[number].size == len(kept) + 1
        offset += len(kept) + 1
    verify(plan.folder, manifest)
    assert len(manifest.parts["train"].shards) > 5
    assert not plan.work.exists()


def test_block_size_and_processes_change_no_id(tmp_path):
    path = write_rows(tmp_path / "log.txt", random_rows(600))
    plans = [make_plan(path, tmp_path / "a"), make_plan(path, tmp_path / "b", block_bytes=10**6)]
    plans.append(make_plan(path, tmp_path / "c", workers=2))
    manifests = [prepare(plan) for plan in plans]
    assert len({manifest.vocabulary for manifest in manifests}) == 1
    first = load(plans[0], manifests[0], "train")
    for plan, manifest in zip(plans[1:], manifests[1:], strict=True):
        for array, other in zip(first, load(plan, manifest, "train"), strict=True):
            np.testing.assert_array_equal(array, other)


def test_gzip_and_parquet_give_the_ids_of_the_text_file(tmp_path):
    import polars as pl

    path = write_rows(tmp_path / "log.txt", random_rows(500))
    packed = tmp_path / "packed.txt.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    table = pl.DataFrame([[v or None for v in row] for row in random_rows(500)], ["click", *FIELDS], orient="row")
    table.with_columns(pl.col("click", "number").cast(pl.Int64)).write_parquet(tmp_path / "log.parquet")
    results = []
    for source in (path, packed, tmp_path / "log.parquet"):
        plan = make_plan(source, tmp_path / f"out-{source.suffix}")
        results.append(load(plan, prepare(plan), "test"))
    for ids, labels in results[1:]:
        np.testing.assert_array_equal(ids, results[0][0])
        np.testing.assert_array_equal(labels, results[0][1])


KILLED = """
import sys
from pathlib import Path
from tests.datasets.ctr.test_prepare import make_plan
from datasets.ctr import prepare as module
encode, done = module.encode_block, []
def slow(job):
    encode(job)
    print("encoded", flush=True)
    import time; time.sleep(0.2)
module.encode_block = slow
module.prepare(make_plan(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_a_killed_preparation_goes_on_and_never_counts_as_done(tmp_path):
    path = write_rows(tmp_path / "log.txt", random_rows(1500))
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, path, folder], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        assert process.stdout.readline() == "encoded\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "manifest.json").exists()
    records = sorted((folder / "work" / "shards").glob("*.json"))
    before = {record: record.stat().st_mtime_ns for record in records}
    assert len(records) >= 3
    manifest = prepare(make_plan(path, folder))
    verify(folder, manifest)
    whole = make_plan(path, tmp_path / "whole")
    assert prepare(whole).parts == manifest.parts
    assert before  # records of finished blocks were there, and their shards are part of the result
    untouched = min(before.values())
    assert os.stat(folder / "train" / "00000.ids.npy").st_mtime_ns <= untouched


def test_a_changed_shard_is_noticed(tmp_path):
    plan = make_plan(write_rows(tmp_path / "log.txt", random_rows(300)), tmp_path / "out")
    manifest = prepare(plan)
    path = next((plan.folder / "train").glob("*.ids.npy"))
    ids = np.load(path)
    ids[0, 0] += 1
    np.save(path, ids)
    with pytest.raises(CorruptData, match=path.name):
        verify(plan.folder, manifest)


def test_a_changed_vocabulary_is_noticed(tmp_path):
    import polars as pl

    plan = make_plan(write_rows(tmp_path / "log.txt", random_rows(300)), tmp_path / "out")
    manifest = prepare(plan)
    path = plan.folder / "vocabulary" / "colour.parquet"
    vocabulary = pl.read_parquet(path)
    for changed in (
        vocabulary.with_columns(pl.col("id").reverse()),
        vocabulary.with_columns(pl.col("value").reverse()),
        vocabulary.head(-1),
    ):
        changed.write_parquet(path)
        with pytest.raises(CorruptData, match=r"vocabulary.* remove"):
            verify(plan.folder, manifest)
    path.unlink()
    with pytest.raises(CorruptData, match="vocabulary"):
        verify(plan.folder, manifest)


def test_compressed_files_of_one_name_do_not_mix(tmp_path):
    files = []
    for number, part in enumerate(("train", "val", "test")):
        path = tmp_path / part / "log.txt.gz"
        path.parent.mkdir()
        rows = [row for row in random_rows(100) if row[0] == str(number % 2)]
        path.write_bytes(gzip.compress("".join("\t".join(row) + "\n" for row in rows).encode()))
        files.append((path,))
    plan = make_plan(files[0][0], tmp_path / "out", split=Split("files"), sources=dict(zip(PARTS, files, strict=True)))
    manifest = prepare(plan)
    assert [set(load(plan, manifest, part)[1].tolist()) for part in PARTS] == [{0}, {1}, {0}]


@pytest.mark.parametrize("damage", ["cut", "header", "middle"])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    data = bytearray(gzip.compress(write_rows(tmp_path / "log.txt", random_rows(2000)).read_bytes()))
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "header":
        data[0] = 0
    else:
        data[200:260] = bytes(60)
    (tmp_path / "log.txt.gz").write_bytes(data)
    with pytest.raises(CorruptData, match=r"log\.txt\.gz is no whole gzip file"):
        prepare(make_plan(tmp_path / "log.txt.gz", tmp_path / "out"))


def test_a_torn_manifest_is_refused(tmp_path):
    plan = make_plan(write_rows(tmp_path / "log.txt", random_rows(300)), tmp_path / "out")
    prepare(plan)
    path = plan.folder / "manifest.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(CorruptData, match="damaged"):
        prepare(plan)


@pytest.mark.parametrize(
    ("row", "line", "message"),
    [
        (["0", "1", "red"], 251, "3 columns, expected 4"),
        (["0", "1", "red", "a", "b"], 251, "5 columns, expected 4"),
        (["2", "1", "red", "a"], 251, "expected 0 or 1"),
        (["", "1", "red", "a"], 251, "expected 0 or 1"),
        (["yes", "1", "red", "a"], 251, "expected 0 or 1"),
        (["0", "many", "red", "a"], 251, "transform log_squared of column number does not take 'many'"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, line, message):
    rows = [*random_rows(250), row, *random_rows(100)]
    plan = make_plan(write_rows(tmp_path / "log.txt", rows), tmp_path / "out")
    with pytest.raises(CorruptData, match=message) as error:
        prepare(plan)
    assert f"log.txt, line {line}:" in str(error.value)
    assert not (plan.folder / "manifest.json").exists()


def test_the_other_blocks_are_not_read_after_a_bad_row(tmp_path):
    rows = [["7", "1", "red", "a"], *random_rows(3000)]
    plan = make_plan(write_rows(tmp_path / "log.txt", rows), tmp_path / "out", workers=2, block_bytes=100)
    with pytest.raises(CorruptData, match="line 1: label"):
        prepare(plan)
    assert len(list((plan.work / "counts").glob("[0-9]*"))) < 100  # of 300 and more


def test_files_with_a_header_count_its_line_and_miss_no_field(tmp_path):
    path = tmp_path / "log.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["a", "click", "b"], *([i % 5, i % 2, f"x,{i % 3}"] for i in range(100))])
        file.write("1,7,c\n")
    schema = Schema("click", (Field("a"), Field("b")), separator=",", quoted=True)
    plan = Plan("toy", tmp_path / "out", schema, {"all": (path,)}, Split())
    with pytest.raises(CorruptData, match="line 102: label click is '7'"):
        prepare(plan)
    with pytest.raises(ValueError, match=r"has no column c; its columns are a, click, b"):
        prepare(Plan("toy", tmp_path / "out", Schema("click", (Field("c"),), separator=","), {"all": (path,)}, Split()))


def test_ids_beyond_int32_are_refused():
    check_id_range(2**31 - 1)
    with pytest.raises(ValueError, match="int32"):
        check_id_range(2**31)


def test_parts_by_file_and_by_time(tmp_path):
    rows = random_rows(400)
    files = [write_rows(tmp_path / f"{i}.txt", rows[i * 100 : (i + 1) * 100]) for i in range(4)]
    plan = make_plan(
        files[0],
        tmp_path / "files",
        split=Split("files"),
        sources={"train": (files[0], files[1]), "val": (files[2],), "test": (files[3],)},
    )
    assert [prepare(plan).parts[part].rows for part in PARTS] == [200, 100, 100]
    whole = write_rows(tmp_path / "all.txt", rows)
    plan = make_plan(whole, tmp_path / "time", split=Split("temporal", val=0.2, test=0.25))
    manifest = prepare(plan)
    assert [manifest.parts[part].rows for part in PARTS] == [220, 80, 100]
    np.testing.assert_array_equal(load(plan, manifest, "test")[1], [int(row[0]) for row in rows[-100:]])


def test_manifest_says_what_was_prepared(tmp_path):
    plan = make_plan(write_rows(tmp_path / "log.txt", random_rows(200)), tmp_path / "out")
    prepare(plan)
    values = json.loads((plan.folder / "manifest.json").read_text())
    assert values["split"]["kind"] == "random"
    assert values["sources"][0]["bytes"] == (tmp_path / "log.txt").stat().st_size
    started = time.perf_counter()
    prepare(plan)
    assert time.perf_counter() - started < 0.5
