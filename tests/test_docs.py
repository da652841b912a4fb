"""Documented commands parse and compose, and the documented tables are those of docs/results."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runner.config.address import Run
from runner.config.compose import compose_without_sweep, with_formats
from runner.config.grids import expand_sweep
from runner.config.place import CONF
from runner.results.arguments import split_arguments
from runner.sweeps.search_settings import SWEEPER
from runner.table import OPTIONS as TABLE_OPTIONS
from scripts import docs_tables

ROOT = CONF.parent
EXAMPLES = ROOT / "docs" / "adding.md"  # its commands use files that the reader adds
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page != EXAMPLES)]
END_OF_COMMAND = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "&"}
RUNNER_FLAGS = {"--help": 0, "-h": 0, "--hydra-help": 0, "--cfg": 1, "--resolve": 0, "-m": 0, "--multirun": 0}


def code_lines(text: str) -> Iterator[str]:
    """Yield the lines of a page's code blocks (indented by four spaces, or fenced), continued lines joined."""
    fenced, joined = False, ""
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            joined += line.strip().removeprefix("$ ")
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            yield joined
        joined = ""


def documented() -> list[str]:
    """Return the different lines of code that call the project's programs."""
    lines = dict.fromkeys(line for page in PAGES for line in code_lines(page.read_text()))
    return [line for line in lines if re.search(r"python3? -m (runner|scripts)\b|^scripts/\w+\.sh", line)]


def words_of(line: str) -> list[str]:
    """Return the words of the command in a line, from the module's or script's name on."""
    line = re.sub(r"<[\w /-]+>", "PLACEHOLDER", line)
    words = shlex.split(line, comments=True)
    start = next(i for i, word in enumerate(words) if word == "-m" or word.startswith("scripts/"))
    words = words[start + 1 :] if words[start] == "-m" else words[start:]
    end = next((i for i, word in enumerate(words) if word in END_OF_COMMAND), len(words))
    return words[:end]


def without_flags(arguments: list[str]) -> list[str]:
    """Return the overrides among the arguments of the runner. Fails on a flag that it does not have."""
    overrides, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("-"):
            assert argument in RUNNER_FLAGS, f"{argument} is no flag of the runner"
            del rest[: RUNNER_FLAGS[argument]]
        else:
            overrides.append(argument)
    return overrides


def check_sweep(overrides: list[str], node: str = "") -> None:
    """Check that an experiment has runs, that its first one composes, and that it has the node."""
    cfg = compose_without_sweep(overrides)
    runs = expand_sweep(cfg, overrides)
    assert runs
    assert Run.compose(runs[0]).identity
    assert not node or node in cfg


def check_runner(arguments: list[str]) -> None:
    overrides = without_flags(arguments)
    if "--help" in arguments:
        return
    if SWEEPER in overrides:
        check_search(overrides)
    elif {"-m", "--multirun"} & set(arguments):
        check_sweep(overrides)
    elif overrides:
        assert Run.compose(overrides).identity


def check_search(overrides: list[str]) -> None:
    """Check the settings of a search and its first trial, as a W&B sweep of the same space does."""
    from scripts.wandb_sweep import sweep_of

    assert sweep_of([o for o in overrides if o != SWEEPER])["parameters"]


def check_dashboard(arguments: list[str]) -> None:
    from scripts.dashboard import OPTIONS
    from scripts.dashboard_tables import choose_tables

    options, overrides = split_arguments(arguments, OPTIONS)
    for table in choose_tables(options["experiment"], overrides):
        compose_without_sweep([f"experiment={table}", *overrides])


def check_report(arguments: list[str]) -> None:
    assert {argument.partition("=")[0] for argument in arguments} <= {"paths.outputs", "out"}


class Parsed(Exception):
    """The arguments of a program were accepted."""


def check_argparse(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a program accepts its arguments, without running it."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(Parsed):
        importlib.import_module(module).main()


CHECKS = {
    "runner": check_runner,
    "runner.table": lambda arguments: check_sweep(split_arguments(arguments, TABLE_OPTIONS)[1], "table"),
    "runner.figure": lambda arguments: check_sweep(with_formats(arguments), "figure"),
    "runner.status": lambda arguments: check_sweep(arguments) if arguments else None,
    "scripts.dashboard": check_dashboard,
    "scripts.report": check_report,
    "scripts.wandb_sweep": check_search,
    "scripts.docs_tables": lambda arguments: split_arguments(arguments, {"check": ""}),
}


@pytest.mark.parametrize("line", documented())
def test_documented_commands_compose(line, monkeypatch, tmp_path) -> None:
    (tmp_path / "PLACEHOLDER").touch()  # for commands that read a file of the reader's
    monkeypatch.chdir(tmp_path)
    program, *arguments = words_of(line)
    if program.startswith("scripts/"):
        assert (ROOT / program).exists()
    elif program in CHECKS:
        CHECKS[program](arguments)
    elif program.startswith("runner."):
        assert importlib.util.find_spec(program)
    else:
        check_argparse(program, arguments, monkeypatch)


def test_documented_commands_are_valid_in_bash() -> None:
    """Parentheses and brackets are quoted."""
    lines = [re.sub(r"<[\w /-]+>", "PLACEHOLDER", line) for line in documented()]
    done = subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, capture_output=True)
    assert not done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "python -m runner method=graphnorm no_such_key=1",
        "python -m runner method=nothing",
        "python -m runner --nothing method=graphnorm",
        "python -m runner.table experiment=graphnorm/demo",
        "python -m runner.table experiment=graphnorm/table1 significant=true",
        "python -m scripts.bench_report --repeats 3",
        "python -m scripts.report folder=outputs",
    ],
)
def test_wrong_commands_are_found(line, monkeypatch, tmp_path) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011 (each ends in an error of its own)
        test_documented_commands_compose(line, monkeypatch, tmp_path)


def test_commands_are_read_from_code_blocks_only() -> None:
    indented = "Say `python -m runner x`:\n\n    python -m runner \\\n        method=a  # why\n\n"
    page = indented + "```bash\n$ python -m runner b\n```\n"
    assert list(code_lines(page)) == ["python -m runner method=a  # why", "python -m runner b"]
    assert words_of("OMP_NUM_THREADS=1 python -m runner method=a 'b=[1]' | head # why") == [
        "runner",
        "method=a",
        "b=[1]",
    ]


def test_documented_tables_are_the_stored_ones() -> None:
    assert not docs_tables.outdated_pages(ROOT / "docs")
    assert not docs_tables.unused_tables(ROOT / "docs")
