"""Measure how fast FuxiCTR prepares a file of Criteo's layout and goes through its batches.

    python3.11 -m pip install --target FOLDER fuxictr==2.3.10 "polars<2"
    PYTHONPATH=FOLDER python -m scripts.bench_fuxictr FILE

`python -m scripts.bench_ctr data FILE --fuxictr FOLDER` runs it after our own data layer, on the same file. FuxiCTR
takes every field as a category and has one Ray worker. Prints one line of JSON: rows, ids, the seconds of the
preparation and the seconds of an epoch of shuffled batches. Ray's start is part of neither.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from datasets.ctr.layouts import CRITEO_CATEGORICAL, CRITEO_NUMERIC
from scripts.arguments import positive


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--batch", type=positive, default=4096, help="rows of a batch")
    parser.add_argument("--min-count", type=positive, default=2, help="rows that a value must occur in to get an id")
    given = parser.parse_args(arguments)
    try:
        import ray
        from fuxictr.features import FeatureMap  # noqa: F401
    except ImportError as error:
        sys.exit(f"FuxiCTR is not installed ({error}): see the head of scripts/bench_fuxictr.py")
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory(dir=given.file.parent) as temporary:
        print(json.dumps(measure(given.file, Path(temporary), given.batch, given.min_count)))


def measure(file: Path, folder: Path, batch: int, min_count: int) -> dict[str, float]:
    """Return the numbers of rows and of ids, and the seconds of the preparation and of an epoch of the loader.

    Args:
        file: text file of Criteo's layout: label and 39 fields, separated by tabs, without a line of names.
        folder: empty folder for what FuxiCTR writes.
        batch: rows of a batch.
        min_count: number of rows that a value must occur in to get an id.
    """
    from fuxictr.preprocess import FeatureProcessor, build_dataset
    from fuxictr.pytorch.dataloaders import RankDataLoader

    fields = [*CRITEO_NUMERIC, *CRITEO_CATEGORICAL]
    named = folder / "clicks.csv"
    with named.open("wb") as output, file.open("rb") as rows:
        output.write("\t".join(["label", *fields]).encode() + b"\n")
        shutil.copyfileobj(rows, output)
    started = time.perf_counter()
    columns = [{"name": fields, "active": True, "dtype": "str", "type": "categorical"}]
    label = {"name": "label", "dtype": "float"}
    processor = FeatureProcessor(columns, label, dataset_id="prepared", data_root=str(folder))
    train, _, _ = build_dataset(processor, train_data=str(named), min_categr_count=min_count, sep="\t")
    prepared = time.perf_counter() - started
    loader, _ = RankDataLoader(
        processor.feature_map, "train", train_data=train, batch_size=batch, shuffle=True, data_format="parquet"
    )
    started = time.perf_counter()
    rows_seen = sum(len(part["label"]) for part in loader)
    seconds = time.perf_counter() - started
    ids = sum(field["vocab_size"] for field in processor.feature_map.features.values())
    return {"rows": rows_seen, "ids": ids, "prepare_seconds": prepared, "loader_seconds": seconds}


if __name__ == "__main__":
    main()
