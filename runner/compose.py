"""Configs composed outside of a running Hydra job: for prerequisites, tables and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[1] / "conf"
VERSION_BASE = "1.3"


@contextmanager
def _initialised() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():
        yield
        return
    with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        yield


def compose(overrides: Iterable[str]) -> DictConfig:
    """The config, Hydra's own node included, that `python -m runner <overrides>` composes.

    Groups are composed once per choice; plain values are then set on a copy, which is much faster in a sweep.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [o for o in parsed if not (o.is_add() or o.is_delete()) and "." in o.key_or_group and not _is_group(o)]
    groups = tuple(o.input_line for o in parsed if o not in values)
    cfg = _compose_groups(groups).copy()
    for override in values:
        if override.key_or_group.startswith("hydra."):  # read-only after composing
            return _compose_groups(tuple(o.input_line for o in parsed)).copy()
    for override in values:
        _set(cfg, override.key_or_group, override.value())
    cfg.hydra.overrides.task = [o.input_line for o in parsed]
    return cfg


def _is_group(override: Override) -> bool:
    return override.package is not None or (CONF / override.key_or_group).is_dir()


@lru_cache(maxsize=1024)
def _compose_groups(overrides: tuple[str, ...]) -> DictConfig:
    with _initialised():
        cfg = hydra_compose("config", list(overrides), return_hydra_config=True)
    OmegaConf.set_readonly(cfg.hydra, False)
    return cfg


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
    parsed = OverridesParser.create().parse_overrides(params + overrides)
    return [list(run) for run in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
