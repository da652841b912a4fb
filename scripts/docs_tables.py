"""`python -m scripts.docs_tables [check=true]`: put the stored tables of docs/results into docs/methods/*.md.

A file docs/results/<paper>-<table>.json, written by `python -m runner.table ... format=json out=...`, is rendered
between the lines `<!-- table: <paper>-<table> -->` and `<!-- end -->` of a page. check=true writes nothing, and ends
with exit code 2 if a page differs from its tables.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from runner.config.messages import cli_errors
from runner.errors import UserError
from runner.files import write_whole
from runner.results.arguments import check_option, split_arguments
from runner.results.numerics import describe
from runner.results.renderers.json_table import table_of_json
from runner.results.renderers.markdown import markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render_stored_table(path: Path) -> str:
    """Return a stored table as Markdown, with its command, numerics and commits. Raises UserError if it is damaged."""
    try:
        table = table_of_json(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    numerics = [f"- numerics of {runs} runs: {describe(fingerprint)}" for fingerprint, runs in table.numerics]
    commits = ", ".join(f"{commit} ({runs} runs)" for commit, runs in table.commits.items())
    command = [f"    {table.command}", ""] if table.command else []
    return "\n".join([*command, markdown(table), *numerics, *([f"- code: {commits}"] if commits else []), ""])


def render_page(text: str, results: Path) -> str:
    """Return a page with the stored tables between its markers.

    Args:
        text: Markdown of the page.
        results: folder of the stored tables.

    Raises:
        UserError: a table that the page names is not stored, or it is damaged.
    """

    def block(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.json"
        if not path.exists():
            raise UserError(
                f"{path} does not exist; python -m runner.table experiment=<paper>/<table> format=json out={path} "
                "writes it"
            )
        return f"{match[1]}\n{render_stored_table(path)}\n{match[3]}"

    return BLOCK.sub(block, text)


def outdated_pages(docs: Path) -> dict[Path, str]:
    """Return the pages that differ from their stored tables, with the text that they should have."""
    pages = {path: path.read_text() for path in sorted(docs.rglob("*.md"))}
    rendered = {path: render_page(text, docs / "results") for path, text in pages.items()}
    return {path: text for path, text in rendered.items() if text != pages[path]}


def unused_tables(docs: Path) -> list[str]:
    """Return the names of stored tables that no page shows."""
    shown = {name for path in docs.rglob("*.md") for _, name, _ in BLOCK.findall(path.read_text())}
    return sorted(path.stem for path in (docs / "results").glob("*.json") if path.stem not in shown)


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Render the tables. Exit codes: 0; 2 for a mistake of the user."""
    options, others = split_arguments(sys.argv[1:] if arguments is None else arguments, {"check": "false"})
    check_option("check", options["check"], ("true", "false"))
    if others:
        raise UserError(f"{' '.join(others)}: unknown; the only option is check=true")
    outdated = outdated_pages(DOCS)
    if outdated and options["check"] == "true":
        raise UserError(f"{', '.join(map(str, outdated))}: not as docs/results has the tables; run `make docs-tables`")
    for path, text in outdated.items():
        write_whole(path, text)
        print(path)
    if unused := unused_tables(DOCS):
        print(f"stored, but on no page: {', '.join(unused)}", file=sys.stderr)


if __name__ == "__main__":
    main()
