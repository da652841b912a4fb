"""`python -m scripts.report [paths.outputs=outputs] [out=outputs/report.html]`: one HTML page of all runs.

The page needs no other file and no network. It shows every table with a finished run, measured beside reported; a list
of all runs to sort, search and open; their learning curves; figures; failed runs; and the environments of the runs.
scripts/report/page.py lists what the page embeds and what it links to.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from runner.config.messages import cli_errors
from runner.errors import UserError
from runner.files import write_whole
from runner.results.arguments import split_arguments
from scripts.report.collect import collect
from scripts.report.page import page
from scripts.report.tables import tables

USAGE = "python -m scripts.report [paths.outputs=outputs] [out=outputs/report.html]"


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Write the report. Exit codes: 0; 2 for a mistake of the user."""
    outputs, out = read_arguments(sys.argv[1:] if arguments is None else arguments)
    started = time.perf_counter()
    records = collect(outputs)
    print(f"{len(records)} runs in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    write_whole(out, page(outputs, out, records, list(tables(outputs, records))))
    print(f"{out} ({out.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s)")


def read_arguments(arguments: list[str]) -> tuple[Path, Path]:
    """Return the folder of the runs and the file of the page. Raises UserError if one of them cannot be used."""
    options, unknown = split_arguments(arguments, {"paths.outputs": "outputs", "out": ""})
    if unknown:
        raise UserError(f"{', '.join(argument.partition('=')[0] for argument in unknown)}: unknown\n{USAGE}")
    outputs = Path(options["paths.outputs"])
    out = Path(options["out"] or outputs / "report.html")
    if not outputs.is_dir():
        raise UserError(f"there is no folder {outputs}: name the folder of the runs, paths.outputs=<folder>")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}\nName another place with out=<file>") from error
    if out.is_dir():
        raise UserError(f"{out} is a folder: name a file, out=<file>")
    return outputs, out


if __name__ == "__main__":
    main()
