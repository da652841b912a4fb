"""The choices that conf/ offers, for the help text: each file's first comment line says what it is."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from runner.compose import CONF

GROUPS = ("method", "dataset", "model", "experiment")


def choices(group: str, conf: Path = CONF) -> dict[str, str]:
    """Option of a group -> its line; files whose name starts with an underscore are no options."""
    found = {}
    for path in sorted((conf / group).rglob("*.yaml")):
        if not any(part.startswith("_") for part in path.relative_to(conf).parts):
            comments = (line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
            name = str(path.relative_to(conf / group).with_suffix(""))
            found[name] = next((c for c in comments if not c.startswith("@package")), "")
    return found


def experiments_with(node: str) -> list[str]:
    """The experiments whose file has the node `table` or `figure`."""
    return [name for name in choices("experiment") if node in OmegaConf.load(CONF / "experiment" / f"{name}.yaml")]


def choices_help() -> str:
    blocks = []
    for group in GROUPS:
        options = choices(group)
        width = max(map(len, options)) + 2
        blocks.append(
            "\n".join([f"  {group}=", *(f"    {name:<{width}}{line}" for name, line in options.items())]) + "\n"
        )
    return "\n".join(blocks)


OmegaConf.register_new_resolver("choices_help", choices_help, replace=True)
