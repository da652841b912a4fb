"""`python -m runner.predict run=<folder or id> input=<files>`: a finished run's model on files of one's own.

run: folder of the finished run, its id, or its overrides in quotes.
input: files, folders or patterns, separated by commas.
out: folder of the predictions; outputs/predictions/<id of the run> by default.
export: `onnx` or `torchscript` writes the network to <out>/network.onnx or .pt in place of predictions, and compares it
    with the original on the run's own test data.

Further keys are overrides of the run's config (method.resolution=64), or options of the predictor (tokens=50).

What a prediction is depends on the method (its `predict_files`) or else on the kind of data (that of the DataModule):
see docs/adding.md.
"""

from __future__ import annotations

import glob
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from runner.config.compose import change_keys
from runner.config.messages import as_user_error, cli_errors
from runner.console import exit_on_broken_pipe
from runner.errors import UserError
from runner.loading import FinishedRun, load
from runner.results.arguments import split_arguments

OPTIONS = {"run": "", "input": "", "out": "", "export": "", "paths.outputs": "outputs"}
EXPORTS = ("onnx", "torchscript")
USAGE = "python -m runner.predict run=<folder or id> input=<files> [out=<folder>] [export=onnx|torchscript]"
GIVEN = 3  # first arguments of `predict_files`: files, folder, and the DataModule or the LightningModule


@exit_on_broken_pipe()
@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Predict or export. Exit codes: 0; 2 for a mistake of the user; 1 for other failures."""
    from hydra.core.utils import configure_log

    from runner.config.compose import DEFAULT, compose

    options, rest = split_arguments(sys.argv[1:] if arguments is None else arguments, OPTIONS)
    if not options["run"]:
        raise UserError(f"which run? {USAGE}")
    if bool(options["input"]) == bool(options["export"]):
        raise UserError(f"give input=<files> to predict, or export={'|'.join(EXPORTS)}: {USAGE}")
    finished = load(options["run"], options["paths.outputs"])
    configure_log(compose([DEFAULT]).hydra.job_logging)
    out = Path(options["out"] or Path(options["paths.outputs"]) / "predictions" / finished.result["id"])
    for path in predict(finished, options["input"], out, options["export"], rest):
        print(path)


def predict(finished: FinishedRun, given: str, out: Path, export: str, rest: Sequence[str]) -> list[Path]:
    """Write the predictions of a finished run, or its exported network, and return the files.

    Args:
        finished: run whose weights are used.
        given: files, folders or patterns, separated by commas.
        out: folder of the files to write.
        export: `onnx`, `torchscript`, or empty for predictions.
        rest: overrides of the run's config, and options of the predictor.

    Raises:
        UserError: an argument is wrong, a file does not fit, or the method has no predictor.
    """
    import torch

    paths = [] if export else find_inputs(given)
    bare = {key: parse_option(key, value) for key, _, value in (o.partition("=") for o in rest) if "." not in key}
    dotted = [o for o in rest if "." in o.partition("=")[0]]
    change_keys(finished.config, dotted, f"those of the run are in {finished.folder}/config.yaml")
    with as_user_error(), torch.inference_mode(mode=not export):
        data = (None if export else finished.described_data()) or finished.data()
        module = finished.module(data)
        make_folder(out)
        if export:
            from runner.execution.export import export_network

            if export not in EXPORTS or bare:
                raise UserError(f"export must be {' or '.join(EXPORTS)}, and takes no other options: {USAGE}")
            return [export_network(module, data, out, export)]
        predictor, other = predictor_of(module, data)
        return predictor(paths, out, other, **check_options(predictor, bare))


def find_inputs(given: str) -> list[Path]:
    """Return the files and folders that `input=` names. Raises UserError if one does not exist."""
    paths: list[Path] = []
    parts = list(filter(None, given.split(",")))
    while parts:
        several = [",".join(parts[:n]) for n in range(len(parts), 0, -1)]  # a name may have a comma
        part = next((name for name in several if Path(name).exists()), parts[0])
        found = [Path(part)] if Path(part).exists() else [Path(p) for p in sorted(glob.glob(part, recursive=True))]
        if not found:
            raise UserError(f"input={part}: there is no such file or folder, and no file that fits this pattern")
        paths += found
        del parts[: part.count(",") + 1]
    return paths


def parse_option(key: str, value: str) -> Any:
    """Return the value of a predictor's option, read as YAML. Raises UserError if it cannot be read."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"{key}={value} cannot be read: {error}") from error


def make_folder(folder: Path) -> None:
    """Make the folder of the predictions. Raises UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}\nName another folder with out=<folder>") from error


def predictor_of(module: Any, data: Any) -> tuple[Callable[..., list[Path]], Any]:
    """Return the function that predicts, and what it takes as third argument.

    The method's own `predict_files(paths, out, data)` comes before that of the kind of data,
    `predict_files(paths, out, module)`.

    Raises:
        UserError: neither of them has one.
    """
    if hasattr(module, "predict_files"):
        return module.predict_files, data
    if hasattr(data, "predict_files"):
        return data.predict_files, module
    raise UserError(
        f"{type(module).__name__} on data for {getattr(data, 'task', 'this task')} has no predictor: neither class has "
        "the method `predict_files`"
    )


def check_options(predictor: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a predictor. Raises UserError if it has no such option."""
    known = list(inspect.signature(predictor).parameters)[GIVEN:]
    if unknown := given.keys() - set(known):
        options = f"its options: {', '.join(known)}" if known else "it has no options"
        raise UserError(f"{', '.join(sorted(unknown))}: no option of this predictor; {options}")
    return given


if __name__ == "__main__":
    main()
