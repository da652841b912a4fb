"""Configs composed outside of a running Hydra job: for prerequisites, tables and tests."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import omegaconf.base
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

CONF = Path(__file__).resolve().parents[1] / "conf"
VERSION_BASE = "1.3"
PRESENTATION = ("table", "figure")  # nodes of an experiment that say nothing about a run

# OmegaConf parses an interpolation anew each time that it is read, which is most of what addressing a run takes.
omegaconf.base.parse = lru_cache(maxsize=4096)(omegaconf.base.parse)  # type: ignore[assignment]


@contextmanager
def _initialised() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        yield


def compose(overrides: Iterable[str]) -> DictConfig:
    """The config, Hydra's own node included, that `python -m runner <overrides>` composes."""
    return _assemble(overrides, _compose_groups)


def compose_fixed(overrides: Iterable[str]) -> DictConfig:
    """The config of a sweep without the overrides that sweep: what holds for all of its runs."""
    return compose([o for o in overrides if not parse(o).is_sweep_override()])


def compose_run(overrides: Iterable[str]) -> tuple[DictConfig, dict[str, str]]:
    """The config of a run without the nodes of Hydra and of tables and figures, and the chosen file of each group.

    Groups are composed once per choice; plain values are then set on a small copy. It pays in a sweep.
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
    """What Hydra must compose, and the plain values that can be set afterwards."""
    parsed = [parse(override) for override in overrides]
    values = [o for o in parsed if not (o.is_add() or o.is_delete() or _is_group(o))]
    values = [o for o in values if not o.key_or_group.startswith("hydra.")]
    return tuple(str(o.input_line) for o in parsed if o not in values), values


@lru_cache(maxsize=4096)
def parse(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


@lru_cache(maxsize=1024)
def _is_group_name(name: str) -> bool:
    return (CONF / name).is_dir()


def _is_group(override: Override) -> bool:
    return override.package is not None or _is_group_name(override.key_or_group)


@lru_cache(maxsize=1024)
def _compose_groups(overrides: tuple[str, ...]) -> bytes:
    """The config, pickled: that is twenty times faster to copy than a config."""
    with _initialised():
        cfg = hydra_compose("config", list(overrides), return_hydra_config=True)
    OmegaConf.set_readonly(cfg.hydra, False)
    return pickle.dumps(cfg)


@lru_cache(maxsize=1024)
def _compose_run_groups(overrides: tuple[str, ...]) -> tuple[bytes, dict[str, str]]:
    cfg = pickle.loads(_compose_groups(overrides))
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        for node in ("hydra", *PRESENTATION):
            cfg.pop(node, None)
    return pickle.dumps(cfg), choices


def _set(cfg: DictConfig, key: str, value: object) -> None:
    """Sets a key that must exist, as Hydra does for an override without `+`."""
    from hydra.errors import ConfigCompositionException
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.update(cfg, key, value, merge=True)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException(
            f"Could not override '{key}'.\nTo append to your config use +{key}={value}"
        ) from error


def expand(cfg: DictConfig, overrides: list[str]) -> list[list[str]]:
    """The overrides of every run of the sweep that `cfg.hydra.sweeper.params` and the command line describe."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    params = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()]
    parsed = [parse(override) for override in params + overrides]
    return [list(run) for run in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
