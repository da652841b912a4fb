"""Prepare click logs ahead of the runs that use them, check what was prepared, or write a file of Criteo's shape.

    python -m scripts.prepare_ctr prepare criteo [key=value ...] [--root DIR] [--workers 2]
    python -m scripts.prepare_ctr verify criteo [key=value ...] [--root DIR]
    python -m scripts.prepare_ctr generate FILE --rows 20000000

A run prepares its data itself where that is missing; this does it without a run. Keys are those of the config file
(min_count=10, vocab_from=all, split.kind=temporal, file=...). A stopped preparation goes on with the same command.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from datasets.ctr.criteo_shape import write_criteo_shape
from datasets.ctr.datamodule import PreparedLogs
from datasets.ctr.manifest import Manifest, verify
from datasets.ctr.prepare import prepare
from runner.config.instantiate import instantiate
from runner.config.messages import as_user_error, cli_errors
from scripts.arguments import not_negative, positive

DATASETS = Path(__file__).resolve().parents[1] / "conf" / "dataset"
NAMES = ("criteo", "avazu", "kdd12", "frappe", "movielens100k", "click_table")


def load_config(name: str, overrides: Sequence[str]) -> DictConfig:
    """Return the config of a data set with overrides.

    Args:
        name: file of conf/dataset.
        overrides: `key=value` each.
    """
    files = [OmegaConf.load(DATASETS / f"{file}.yaml") for file in ("_clicks", name)]
    config = cast(DictConfig, OmegaConf.merge(*files, OmegaConf.from_dotlist(list(overrides))))
    config.pop("defaults")
    return config


def open_data(name: str, root: str, workers: int, overrides: Sequence[str]) -> PreparedLogs:
    """Return the DataModule of a data set.

    Args:
        name: file of conf/dataset.
        root: data folder.
        workers: number of processes.
        overrides: `key=value` each.
    """
    config = OmegaConf.create({"dataset": load_config(name, overrides)})
    return instantiate(config, "dataset", root=root, workers=workers)


def describe(manifest: Manifest, folder: Path) -> str:
    """Return a summary of prepared data.

    Args:
        manifest: manifest of the data.
        folder: folder of the data.
    """
    parts = [
        f"{part} {info.rows:,} rows, {info.positives / info.rows:.2%} clicks" for part, info in manifest.parts.items()
    ]
    values = sum(manifest.field_sizes)
    return f"{folder}\n{len(manifest.fields)} fields, {values:,} ids; {'; '.join(parts)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("prepare", "verify"):
        sub = commands.add_parser(command)
        sub.add_argument("name", choices=NAMES)
        sub.add_argument("overrides", nargs="*", metavar="key=value")
        sub.add_argument("--root", default=os.environ.get("RUNNER_DATA", "data"))
        sub.add_argument("--workers", type=positive, default=1)
    sub = commands.add_parser("generate")
    sub.add_argument("file", type=Path)
    sub.add_argument("--rows", type=positive, default=20_000_000)
    sub.add_argument("--seed", type=not_negative, default=0)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.command == "generate":
        with cli_errors(), as_user_error():
            write_criteo_shape(given.file, given.rows, given.seed)
        return
    started = time.monotonic()
    with cli_errors(), as_user_error():
        plan = open_data(given.name, given.root, given.workers, given.overrides).plan()
        manifest = prepare(plan)
        if given.command == "verify":
            verify(plan.folder, manifest)
    print(f"{describe(manifest, plan.folder)}\n{given.command}: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
