"""List the options of conf/ for the help text. The first comment line of each file describes it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from runner.config.compose import CONF

GROUPS = ("method", "dataset", "model", "experiment")


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
    return [name for name in choices("experiment") if node in OmegaConf.load(CONF / "experiment" / f"{name}.yaml")]


def choices_help() -> str:
    """Return the options of all groups, one per line, for --help."""
    blocks = []
    for group in GROUPS:
        options = choices(group)
        width = max(map(len, options)) + 2
        lines = [f"    {name:<{width}}{line}" for name, line in options.items()]
        blocks.append("\n".join([f"  {group}=", *lines]) + "\n")
    return "\n".join(blocks)


OmegaConf.register_new_resolver("choices_help", choices_help, replace=True)
