"""`python -m scripts.report [paths.outputs=outputs] [out=outputs/report.html]`: one HTML page over all runs.

The page needs no other file and no network. It has every table of which a run is finished, measured beside reported;
all runs, to be sorted, searched and opened; their learning curves, to be compared; figures; what failed; and where the
runs were made. What it embeds, and what it links to, scripts/report/page.py says.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from runner.config.messages import cli_errors
from runner.errors import UserError
from runner.files import write_whole
from scripts.report.collect import collect
from scripts.report.page import page
from scripts.report.tables import tables


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Exit codes: 0; 2 for a mistake of the user's."""
    outputs, out = _places(sys.argv[1:] if arguments is None else arguments)
    started = time.perf_counter()
    records = collect(outputs)
    print(f"{len(records)} runs in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    write_whole(out, page(outputs, out, records, list(tables(outputs, records))))
    print(f"{out} ({out.stat().st_size / 2**20:.1f} MiB, {time.perf_counter() - started:.0f} s)")


def _places(arguments: list[str]) -> tuple[Path, Path]:
    """The folder of the runs and the page to write. Raises UserError."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if unknown := given.keys() - {"paths.outputs", "out"}:
        usage = "python -m scripts.report [paths.outputs=outputs] [out=outputs/report.html]"
        raise UserError(f"{', '.join(sorted(unknown))}: unknown\n{usage}")
    outputs = Path(given.get("paths.outputs", "outputs"))
    out = Path(given.get("out", outputs / "report.html"))
    if not outputs.is_dir():
        raise UserError(f"there is no folder {outputs}: name the one with the runs, paths.outputs=<folder>")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}\nName another place with out=<file>") from error
    if out.is_dir():
        raise UserError(f"{out} is a folder: name a file, out=<file>")
    return outputs, out


if __name__ == "__main__":
    main()
