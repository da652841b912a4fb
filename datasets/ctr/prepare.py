"""Two-pass preparation of click logs: vocabulary, then memory-mapped shards of int32 ids.

Every step leaves finished files only, so that a run that was killed goes on where it stopped. The manifest is written
last: a folder without one is not prepared.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from datasets.ctr.manifest import FieldInfo, Manifest, PartInfo, ShardInfo, file_sha256, source_info
from datasets.ctr.rows import categories, labels_of, times_of
from datasets.ctr.schema import Schema, check_id_range
from datasets.ctr.splits import (
    PARTS,
    TRAIN,
    Split,
    autoint_split,
    file_split,
    last_periods_split,
    random_split,
    temporal_split,
)
from datasets.ctr.tables import Block, Table, open_table
from datasets.ctr.transforms import import_polars
from datasets.ctr.vocabulary import (
    digest,
    distinct_values,
    encode,
    merge_counts,
    read_vocabularies,
    vocabulary_file,
)
from datasets.download import alone_at
from datasets.files import atomic_write
from datasets.progress import track

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is prepared, and where.

    Args:
        name: name of the data set.
        folder: folder of the prepared data.
        schema: columns of the source.
        sources: files of each part for `Split(kind="files")`, else all files under the key `all`.
        split: assignment of rows to parts.
        min_count: least number of occurrences of a value that gets an id.
        vocab_from: `train` counts values in the training part only, `all` in all rows, as the paper's group does.
        block_bytes: bytes of text that are held and encoded at a time; also sets the size of a shard.
        workers: number of processes.
    """

    name: str
    folder: Path
    schema: Schema
    sources: dict[str, tuple[Path, ...]]
    split: Split
    min_count: int = 1
    vocab_from: Literal["train", "all"] = "train"
    block_bytes: int = 1 << 28
    workers: int = 1

    def __post_init__(self) -> None:
        if self.split.kind == "files" and set(self.sources) != set(PARTS):
            raise ValueError(
                "dataset.split.kind=files needs a data set with a file for each part, and this one has one file: "
                "choose random, autoint or temporal"
            )

    @property
    def work(self) -> Path:
        """Folder of intermediate files."""
        return self.folder / "work"


@dataclass(frozen=True)
class Job:
    """Block of a plan, with its place among all rows."""

    plan: Plan
    path: Path
    block: Block
    number: int
    first_row: int


def prepare(plan: Plan) -> Manifest:
    """Prepare a data set, or read what was prepared before.

    Args:
        plan: source, schema and rules.

    Returns:
        Manifest of the prepared data.

    Raises:
        CorruptData: the source is not what the schema says; the message names the file and the line.
        ValueError: a column is missing, or ids do not fit into int32.
    """
    manifest = plan.folder / "manifest.json"
    if not manifest.exists():
        with alone_at(plan.folder / "prepare"):
            if not manifest.exists():
                _prepare(plan)
    return Manifest.read(manifest)


def _prepare(plan: Plan) -> None:
    import_polars()
    plan.work.mkdir(parents=True, exist_ok=True)
    jobs, counts = _jobs(plan)
    _save_split(plan, jobs, counts)
    _each(count_block, [job for job in jobs if not _counts_folder(job).exists()], "counted blocks", plan.workers)
    vocabularies = _vocabularies(plan, jobs)
    _each(encode_block, [job for job in jobs if not _record(job).exists()], "encoded blocks", plan.workers)
    _manifest(plan, jobs, vocabularies).write(plan.folder / "manifest.json")
    _read_vocabularies.cache_clear()
    shutil.rmtree(plan.work)


def _jobs(plan: Plan) -> tuple[list[Job], dict[str, int]]:
    """Return all blocks in order, and the rows of each part of the sources."""
    jobs: list[Job] = []
    counts: dict[str, int] = {}
    row = 0
    for part, paths in plan.sources.items():
        before = row
        for path in paths:
            for block in open_table(path, plan.schema, plan.work).blocks(plan.block_bytes):
                jobs.append(Job(plan, path, block, len(jobs), row))
                row += block.rows
        counts[part] = row - before
    log.info("%s: %d rows in %d blocks", plan.name, row, len(jobs))
    return jobs, counts


def _each(function: Callable[[Job], None], jobs: Sequence[Job], description: str, workers: int) -> None:
    """Call a function for each job, in as many processes as asked for, and show progress."""
    if workers <= 1 or len(jobs) <= 1:
        for job in track(jobs, description):
            function(job)
        return
    threads = os.environ.get("POLARS_MAX_THREADS")
    os.environ["POLARS_MAX_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(function, job) for job in jobs]
            try:
                for future in track(as_completed(futures), description, total=len(futures)):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        os.environ.pop("POLARS_MAX_THREADS")
        if threads is not None:
            os.environ["POLARS_MAX_THREADS"] = threads


# ---- split ----


def _save_split(plan: Plan, jobs: Sequence[Job], counts: dict[str, int]) -> None:
    path = plan.work / "split.npy"
    if path.exists():
        return
    parts = _split(plan, jobs, counts)
    absent = [name for number, name in enumerate(PARTS) if not (parts == number).any()]
    if absent:
        raise ValueError(f"the split leaves no rows for {', '.join(absent)} ({len(parts)} rows in all)")
    with atomic_write(path) as temporary:
        np.save(temporary, parts)


def _split(plan: Plan, jobs: Sequence[Job], counts: dict[str, int]) -> np.ndarray:
    split, rows = plan.split, sum(counts.values())
    if split.kind == "files":
        return file_split(counts)
    if split.kind == "random":
        return random_split(rows, 2021 if split.seed is None else split.seed)
    if split.kind == "autoint":
        tables = ((_table(job), job.block) for job in track(jobs, "labels read"))
        labels = [labels_of(table, block, table.read(block)) for table, block in tables]
        return autoint_split(np.concatenate(labels), 2018 if split.seed is None else split.seed)
    times = np.arange(rows)
    if split.column is not None:
        found = [
            times_of(job.path, plan.schema, plan.work, job.block, split.column) for job in track(jobs, "times read")
        ]
        times = np.concatenate(found)
    if split.period is not None:
        return last_periods_split(times, split.period)
    return temporal_split(times, split.val, split.test)


# ---- first pass ----


def count_block(job: Job) -> None:
    """Parse a block and write its labels, the distinct values of each field with their counts, and their places.

    The second pass needs nothing else, so that the text is parsed once. Places take 4 bytes a value until the
    preparation is finished, which is about what the text takes.

    Args:
        job: block.
    """
    table = _table(job)
    frame = table.read(job.block)
    counted = _parts(job) == TRAIN if job.plan.vocab_from == "train" else np.ones(frame.height, dtype=bool)
    folder = _counts_folder(job)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    np.save(temporary / "labels.npy", labels_of(table, job.block, frame))
    places = np.empty((len(job.plan.schema.fields), frame.height), np.int32)
    for number, values in enumerate(categories(table, job.block, frame)):
        distinct, places[number] = distinct_values(values)
        counts = np.bincount(places[number][counted], minlength=len(distinct)).astype(np.uint32)
        distinct.to_frame("value").with_columns(count=counts).write_parquet(temporary / f"{number}.parquet")
    np.save(temporary / "places.npy", places)
    os.replace(temporary, folder)


def _counts_folder(job: Job) -> Path:
    return job.plan.work / "counts" / f"{job.number:05d}"


def _vocabularies(plan: Plan, jobs: Sequence[Job]) -> dict[str, pl.DataFrame]:
    """Merge the counts field by field, and return the vocabularies."""
    (plan.folder / "vocabulary").mkdir(exist_ok=True)
    for number, field in enumerate(track(plan.schema.fields, "merged vocabularies")):
        path = vocabulary_file(plan.folder, field.name)
        if path.exists():
            continue
        min_count = plan.min_count if field.min_count is None else field.min_count
        merged = merge_counts([_counts_folder(job) / f"{number}.parquet" for job in jobs], min_count)
        with atomic_write(path) as temporary:
            merged.write_parquet(temporary)
    vocabularies = load_vocabularies(plan)
    check_id_range(sum(vocabulary.height + 1 for vocabulary in vocabularies.values()))
    return vocabularies


def load_vocabularies(plan: Plan) -> dict[str, pl.DataFrame]:
    """Return the vocabulary of each field, in the order of the fields: frames with the columns value and id."""
    return _read_vocabularies(plan.folder, tuple(field.name for field in plan.schema.fields))


_read_vocabularies = lru_cache(maxsize=1)(read_vocabularies)


# ---- second pass ----


def encode_block(job: Job) -> None:
    """Write the shards of a block, one for each part, and then their record.

    Args:
        job: block.
    """
    import polars as pl

    folder, parts = _counts_folder(job), _parts(job)
    labels, places = np.load(folder / "labels.npy"), np.load(folder / "places.npy", mmap_mode="r")
    vocabularies = list(load_vocabularies(job.plan).values())
    distinct = (pl.read_parquet(folder / f"{i}.parquet", columns=["value"])["value"] for i in range(len(places)))
    ids = encode(zip(distinct, places, strict=True), vocabularies)
    shards = {}
    for number, part in enumerate(PARTS):
        rows = parts == number
        if rows.any():
            shards[part] = _write_shard(job, part, ids[rows], labels[rows])
    record = _record(job)
    record.parent.mkdir(exist_ok=True)
    with atomic_write(record) as temporary:
        temporary.write_text(PartInfo.dump(shards))


def _record(job: Job) -> Path:
    return job.plan.work / "shards" / f"{job.number:05d}.json"


def _write_shard(job: Job, part: str, ids: np.ndarray, labels: np.ndarray) -> ShardInfo:
    folder = job.plan.folder / part
    folder.mkdir(exist_ok=True)
    sums = {}
    for kind, array in (("ids", ids), ("labels", labels)):
        with atomic_write(folder / f"{job.number:05d}.{kind}.npy") as temporary:
            np.save(temporary, np.ascontiguousarray(array))
            sums[kind] = file_sha256(temporary)
    return ShardInfo(f"{part}/{job.number:05d}", len(labels), int(labels.sum()), sums["ids"], sums["labels"])


def _manifest(plan: Plan, jobs: Sequence[Job], vocabularies: dict[str, pl.DataFrame]) -> Manifest:
    records = [PartInfo.load(_record(job).read_text()) for job in jobs]
    return Manifest(
        name=plan.name,
        vocabulary=digest(vocabularies),
        fields=list(_field_infos(plan, vocabularies)),
        parts={part: PartInfo([r[part] for r in records if part in r]) for part in PARTS},
        sources=[source_info(path) for paths in plan.sources.values() for path in paths],
        schema=plan.schema.describe(),
        split=asdict(plan.split),
        vocab_from=plan.vocab_from,
    )


def _field_infos(plan: Plan, vocabularies: dict[str, pl.DataFrame]) -> Iterator[FieldInfo]:
    offset = 0
    for field in plan.schema.fields:
        size = vocabularies[field.name].height + 1
        min_count = plan.min_count if field.min_count is None else field.min_count
        yield FieldInfo(field.name, size, offset, min_count)
        offset += size


# ---- reading ----


def _table(job: Job) -> Table:
    return open_table(job.path, job.plan.schema, job.plan.work)


def _parts(job: Job) -> np.ndarray:
    parts = np.load(job.plan.work / "split.npy", mmap_mode="r")
    return np.asarray(parts[job.first_row : job.first_row + job.block.rows])
