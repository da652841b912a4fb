"""Compose configs outside of a running Hydra job: for needed runs, sweeps, tables and tests."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import omegaconf.base
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from runner.config.place import CONF
from runner.errors import UserError

VERSION_BASE = "1.3"
DEFAULT = "experiment=default"  # for a command line without any override
PRESENTATION = ("table", "figure", "sweep")  # nodes of an experiment that say nothing about a single run

# OmegaConf parses an interpolation anew each time that it is read, which is most of what addressing a run takes.
omegaconf.base.parse = lru_cache(maxsize=4096)(omegaconf.base.parse)  # type: ignore[assignment]

_configs_read: dict[tuple[str, str, int, int], bytes] = {}  # pickled, by place, name, time of change and size


def _read_files_once() -> None:
    """Let Hydra read each file once in a process, unless it changes.

    It parses every YAML file anew for each composition, which is a third of what composing takes. The class of its file
    source is that of Hydra's registry, since Hydra loads its own plugins as modules of their own.
    """
    source_class = SourcesRegistry.instance().resolve("file")
    read = source_class.load_config
    if getattr(read, "reads_once", False):
        return

    def load_config(source: Any, config_path: str) -> Any:
        file = Path(source.path, config_path if config_path.endswith(".yaml") else f"{config_path}.yaml")
        try:
            status = file.stat()
        except OSError:
            return read(source, config_path)
        key = (source.path, config_path, status.st_mtime_ns, status.st_size)
        if key not in _configs_read:
            _configs_read[key] = pickle.dumps(read(source, config_path))
        return pickle.loads(_configs_read[key])

    load_config.reads_once = True  # type: ignore[attr-defined]
    source_class.load_config = load_config  # type: ignore[assignment, method-assign]


def searchpath_of(overrides: Iterable[str]) -> list[str]:
    """Return the overrides that name further folders of config files."""
    return [override for override in overrides if override.startswith("hydra.searchpath=")]


@contextmanager
def _initialised() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        _read_files_once()
        yield


def group_options(group: str) -> list[str]:
    """Return the options of a group that Hydra finds: those of conf/, of Hydra itself and of its installed plugins."""
    with _initialised():
        options = GlobalHydra.instance().config_loader().get_group_options(group)
    return sorted(options)


def check_group_values(overrides: Iterable[str]) -> None:
    """Check that groups are given names of options. Hydra itself fails at other values, such as `trainer=null`.

    Raises:
        ConfigCompositionException: a group is given a number, null or a mapping.
    """
    for override in map(parse, overrides):
        value = None if override.is_sweep_override() else override.value()
        deletes_any = override.is_delete() and value is None  # ~group
        if override.is_sweep_override() or deletes_any or not is_group(override):
            continue
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str | QuotedString) for name in names):
            raise ConfigCompositionException(
                f"{override.input_line}: {override.key_or_group} must be given the name of an option"
            )


def compose(overrides: Iterable[str]) -> DictConfig:
    """Return the config, Hydra's own node included, that `python -m runner <overrides>` composes."""
    return _assemble(overrides, _compose_groups)


def compose_without_sweep(overrides: Iterable[str]) -> DictConfig:
    """Return the config of a sweep without the overrides that sweep: what holds for all of its runs."""
    return compose([o for o in overrides if not parse(o).is_sweep_override()])


def compose_run(overrides: Iterable[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the config of a run, without Hydra's and the presentation nodes, and the chosen file of each group.

    Groups are composed once per choice; plain values are then set on a small copy. This pays off in a sweep.
    """
    overrides = [o for o in overrides if (parse(o).key_or_group or "").partition(".")[0] not in PRESENTATION]
    cfg = _assemble(overrides, lambda groups: _compose_run_groups(groups)[0])
    return cfg, dict(_compose_run_groups(_split(overrides)[0])[1])


def _assemble(overrides: Iterable[str], compose_groups: Callable[[tuple[str, ...]], bytes]) -> DictConfig:
    groups, values = _split(overrides)
    cfg: DictConfig = pickle.loads(compose_groups(groups))
    for override in values:
        _set(cfg, override.key_or_group, override.value())
    return cfg


def _split(overrides: Iterable[str]) -> tuple[tuple[str, ...], list[Override]]:
    """Split overrides into those that Hydra must compose and the plain values that can be set afterwards."""
    parsed = [parse(override) for override in overrides]
    values = [o for o in parsed if not (o.is_add() or o.is_delete() or is_group(o))]
    values = [o for o in values if not o.key_or_group.startswith("hydra.")]
    return tuple(str(o.input_line) for o in parsed if o not in values), values


def with_formats(arguments: Iterable[str]) -> list[str]:
    """Return a command line with `figures.format=png,pdf` as one list, where Hydra would see a sweep."""
    return [re.sub(r"^figures\.format=(\w+(?:,\w+)*)$", r"figures.format=[\1]", argument) for argument in arguments]


@lru_cache(maxsize=4096)
def parse(override: str) -> Override:
    """Parse an override in Hydra's grammar. Raises UserError if it does not follow it."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise UserError(
            f"{override}: {error}\nAn override is key=value; special characters of a value need quotes: 'key=\"a~b\"'"
        ) from error


@lru_cache(maxsize=1024)
def _is_group_name(name: str) -> bool:
    return (CONF / name).is_dir()


def is_group(override: Override) -> bool:
    """Return whether an override chooses a file of a config group."""
    return override.package is not None or _is_group_name(override.key_or_group)


@lru_cache(maxsize=1024)
def _compose_groups(overrides: tuple[str, ...]) -> bytes:
    """Return the composed config, pickled: that is twenty times faster to copy than a config."""
    check_group_values(overrides)
    with _initialised():
        cfg = hydra_compose("config", list(overrides), return_hydra_config=True)
    OmegaConf.set_readonly(cfg.hydra, False)
    return pickle.dumps(cfg)


@lru_cache(maxsize=1024)
def _compose_run_groups(overrides: tuple[str, ...]) -> tuple[bytes, dict[str, str]]:
    cfg = pickle.loads(_compose_groups(overrides))
    choices = dict(cfg.hydra.runtime.choices)
    strip(cfg)
    return pickle.dumps(cfg), choices


def strip(cfg: DictConfig) -> None:
    """Remove the nodes that are no part of a run: Hydra's own, and those of tables, figures and sweeps."""
    with open_dict(cfg):
        for node in ("hydra", *PRESENTATION):
            cfg.pop(node, None)


def _set(cfg: DictConfig, key: str, value: object) -> None:
    """Set a key that must exist, as Hydra does for an override without `+`."""
    try:
        OmegaConf.update(cfg, key, value, merge=True)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException(
            f"Could not override '{key}'.\nTo append to your config use +{key}={value}"
        ) from error


def change_keys(cfg: DictConfig, overrides: Sequence[str], where: str) -> None:
    """Change keys of a composed config in place, such as `method.resolution=64`; `+` adds one.

    Args:
        cfg: config.
        overrides: overrides of single keys.
        where: end of the message about an unknown key: where the known ones are.

    Raises:
        UserError: a key is unknown, or a value does not fit.
    """
    for text in overrides:
        parsed = parse(text)
        try:
            before = OmegaConf.select(cfg, parsed.key_or_group, throw_on_missing=False, default="???")
            if before == "???" and not parsed.is_add():
                raise UserError(f"unknown key {parsed.key_or_group}; {where}")
            OmegaConf.update(cfg, parsed.key_or_group, parsed.value(), force_add=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{text}: {error}") from error
