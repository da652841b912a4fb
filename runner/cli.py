"""Command line of `python -m runner`: one run or a sweep, error messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from runner.config.address import Run
from runner.config.compose import DEFAULT, VERSION_BASE, check_group_values, searchpath_of, strip, with_formats
from runner.config.help import print_help
from runner.config.messages import cli_errors
from runner.config.place import CONF
from runner.console import exit_on_broken_pipe
from runner.errors import exit_interrupted, is_keyboard_interrupt


@exit_on_broken_pipe()
def main() -> None:
    """Run `python -m runner`. Exit codes: 0; 2 for a mistake of the user; 130 after Ctrl-C; 1 for other failures."""
    if "--version" in sys.argv:
        print(version())
        return
    if {"--help", "-h"} & set(sys.argv[1:]):
        print_help(sys.argv[1:])
        return
    if not any("=" in argument for argument in sys.argv[1:]) and "--hydra-help" not in sys.argv:
        sys.argv.insert(1, DEFAULT)  # also for --info
    sys.argv[1:] = with_formats(sys.argv[1:])
    full_error = os.environ.get("HYDRA_FULL_ERROR", "")
    try:
        with cli_errors():
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, so that cli_errors sees them
            try:
                _run_or_sweep()
            finally:
                os.environ["HYDRA_FULL_ERROR"] = full_error
    except KeyboardInterrupt:
        exit_interrupted()
    except SystemExit as error:
        if is_keyboard_interrupt(error):
            exit_interrupted()
        if type(error) is not SystemExit:  # Lightning's, after SIGTERM: the run ended, but did not finish
            sys.exit(128 + signal.SIGTERM)
        raise


def version() -> str:
    """Return the project's name and version, from pyproject.toml: the project is not installed."""
    import tomllib

    project = tomllib.loads((CONF.parent / "pyproject.toml").read_text())["project"]
    return f"{project['name']} {project['version']}"


def _run_or_sweep() -> None:
    if "hydra/sweeper=optuna" in sys.argv[1:]:
        from runner.sweeps.search import search

        sys.exit(search(sys.argv[1:]))
    if {"-m", "--multirun"} & set(sys.argv[1:]):
        from runner.sweeps.sweep import sweep

        sys.exit(sweep(sys.argv[1:]))
    errors: list[BaseException] = []
    check_group_values(a for a in sys.argv[1:] if "=" in a and not a.startswith("-"))
    _single_run(errors)
    if errors:
        raise errors[0]


def _single_run(errors: list[BaseException]) -> None:
    """Let Hydra read the command line and execute the run. Errors of the run are collected: Hydra would print more."""

    @hydra.main(config_path=str(CONF), config_name="config", version_base=VERSION_BASE)
    def job(cfg: DictConfig) -> None:
        from runner.main import execute

        hydra_cfg = HydraConfig.get()
        try:
            strip(cfg)
            execute(Run(cfg, dict(hydra_cfg.runtime.choices), searchpath_of(hydra_cfg.overrides.hydra)))
        except BaseException as error:
            errors.append(error)

    job()
