"""Help texts: the commands, and the options of conf/. The first comment line of each file describes it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from runner.config.place import CONF
from runner.console import exit_on_broken_pipe
from runner.errors import UserError

GROUPS = (
    "method",
    "dataset",
    "model",
    "experiment",
    "callbacks",
    "trainer",
    "logger",
    "hydra/launcher",
    "hydra/sweeper",
)

HELP = """\
Runs published machine-learning methods and rebuilds the tables that their papers report.

  python -m runner                                       the embedded demo
  python -m runner method=M [dataset=D] [model=A] [seed=0] [any.key=value]
  python -m runner -m experiment=E [any.key=a,b,c]       every run of a table
  python -m runner -m experiment=E hydra/launcher=slurm  the same as SLURM jobs (local: several at a time here)
  python -m runner.status [experiment=E]                 status of each run
  python -m runner.table experiment=E                    the table: measured beside reported
  python -m runner.figure experiment=E                   the figure
  python -m runner.test run=ID dataset=D                 a finished run's weights, tested in another setting
  python -m runner.predict run=ID input=FILES            a finished run's model on files; export=onnx|torchscript
  python -m runner -m ... hydra/sweeper=optuna optimize=val/acc 'KEY=interval(0,1)'  a search

Groups (python -m runner --help GROUP lists the options; --help GROUP=OPTION shows one):
{groups}

Keys of every run (python -m runner method=M --cfg job shows all):
  seed=0                      rerun=true                  run again although the result is there
  schedule.max_epochs=N       trainer.precision=...       any argument of Lightning's Trainer
  logger=[wandb,tensorboard]  trainer=cpu|gpu|ddp         where it runs and what it logs to
  smoke=true                  figures.format=[pdf,png]    a quick check; files of figures
  paths.data=DIR              paths.outputs=DIR           (paths.data is RUNNER_DATA by default)
  threads=1 compile=true checkpoint.keep=false wait=false init_from=FILE

--cfg job --resolve prints the composed config, --info shows how it is composed, --hydra-help is Hydra's own help."""


def choices(group: str, conf: Path = CONF) -> dict[str, str]:
    """Return the options of a group with their descriptions; files whose names start with an underscore are none."""
    options = {}
    for path in sorted((conf / group).rglob("*.yaml")):
        if not any(part.startswith("_") for part in path.relative_to(conf).parts):
            comments = (line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
            name = str(path.relative_to(conf / group).with_suffix(""))
            options[name] = next((c for c in comments if not c.startswith("@package")), "")
    return options


def experiments_with(node: str) -> list[str]:
    """Return the experiments whose file has the node `table` or `figure`."""
    return [name for name in choices("experiment") if has_node(name, node)]


def has_node(experiment: str, node: str) -> bool:
    """Return whether the file of an experiment of conf/ has a node at its root, such as `table` or `figure`."""
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    return re.search(rf"^{node}:", text, re.MULTILINE) is not None


@exit_on_broken_pipe()
def print_help(arguments: list[str]) -> None:
    """Print the help that a command line asks for. Exit code 2 if there is no such group or option."""
    try:
        print(help_text([argument for argument in arguments if not argument.startswith("-")]))
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)


def help_text(subjects: list[str]) -> str:
    """Return the text of --help.

    Args:
        subjects: groups to list and options (`group=option`) to show; none: the overview.

    Raises:
        UserError: there is no such group or option.
    """
    if not subjects:
        return HELP.format(groups="\n".join(_overview(group) for group in GROUPS))
    return "\n\n".join(_describe(*subject.split("=", 1)) for subject in subjects)


def _overview(group: str) -> str:
    """Return a line on a group: its options, or their first parts and their number if there are many."""
    options = list(dict.fromkeys(name.partition("/")[0] for name in choices(group)))
    count, shown = len(choices(group)), ", ".join(options)
    if len(shown) > 70:
        shown = shown[:70].rpartition(",")[0] + ", ..."
    return f"  {group + '=':<16}{shown} ({count})"


def _describe(group: str, option: str | None = None) -> str:
    if group not in GROUPS:
        raise UserError(f"there is no group {group}; groups: {', '.join(GROUPS)}")
    options = choices(group)
    if option is None:
        width = max(map(len, options), default=0) + 2
        return "\n".join([f"{group}=", *(f"  {name:<{width}}{line}" for name, line in options.items())])
    if option not in options:
        raise UserError(f"there is no {group}={option}; python -m runner --help {group} lists the options")
    return (CONF / group / f"{option}.yaml").read_text().rstrip()
