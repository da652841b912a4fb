"""A pipeline of stages over one trained network, measured after each. The whole run is the test stage."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from torch import nn

from datasets.checks import check_not_negative, check_positive
from datasets.progress import UNDERWAY
from methods.checkpoints import weights_below
from methods.compression import energy
from methods.compression.artifacts import artifact_of, load_network, save_artifact
from methods.compression.figures import pipeline_figures
from methods.compression.files import write_json
from methods.compression.latency import forward_call
from methods.compression.measure import Sheet, add_latencies, markdown, measure
from methods.compression.stage import EXITS, Context, Stage, choose
from methods.compression.training import zero_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
LOGGED = (
    *("params", "params_nonzero", "bits", "bytes_file", "macs", "macs_effective", "bops", "peak_memory"),
    *("latency_ms", "speedup"),
)


class Compression(LightningModule):
    """Compression of a trained network by one stage or several, with a measurement after each.

    Metrics: `test/acc` (a fraction, the last stage's), `test/acc_drop` (from the dense network's), `test/<number>` of
    the last stage's sheet (see `Sheet`; bytes, milliseconds), `test/energy_uj` (microjoules), `test/compression`
    (bytes of float32 weights by bytes of the file), `test/seconds` of all stages, and the numbers that a stage reports.

    The folder of the run gets `sheet.json` and `sheet.md` with a row a stage, and the compressed network of each stage
    as a file of its own (`stage_1_<name>.dcz` or `.pt2`, and `.json` with what the stage reported). A run that was
    killed goes on after its last stage, and in a stage after the last saved epoch of its training.

    Args:
        network: classifier of the dense network's architecture.
        stages: stages by name.
        pipeline: names of the stages in their order.
        dense: checkpoint of the dense network; None: the weights come from `init_from`.
        latency_repeats: number of timed blocks of each network; 0 measures no latency.
        block_seconds: shortest duration of a block.
        energy_seconds: seconds of a measurement by a sensor of energy; 0 estimates.
        files: write the compressed networks.

    Raises:
        ValueError: a value is out of its range, or the stages cannot follow each other.
    """

    tasks = ("image-classification",)
    distributed = False
    check_before_needs = True  # a bad pipeline is refused before the dense network is trained

    def __init__(
        self,
        network: nn.Module,
        stages: Mapping[str, Stage],
        pipeline: Sequence[str],
        dense: Path | None = None,
        latency_repeats: int = 20,
        block_seconds: float = 0.02,
        energy_seconds: float = 0.0,
        files: bool = True,
    ) -> None:
        super().__init__()
        check_not_negative("method", latency_repeats=latency_repeats, energy_seconds=energy_seconds)
        check_positive("method", block_seconds=block_seconds)
        self.stages = choose(stages, list(pipeline))
        if dense is not None:
            network.load_state_dict(weights_below(dense, "network."))
        self.network = network
        self.latency_repeats, self.block_seconds = latency_repeats, block_seconds
        self.energy_seconds, self.files = energy_seconds, files
        self.sheets: list[Sheet] = []
        self.numbers: dict[str, float] = {}
        self._drawings: dict[str, Any] = {}

    def prepare(self, data: Any) -> None:
        """Check every stage on the network and the data."""
        for name, stage in self.stages.items():
            try:
                stage.check(self.network, data)
            except ValueError as error:
                raise ValueError(f"method.stages.{name}: {error}") from error
        self._data = data

    def on_test_start(self) -> None:
        """Run the pipeline."""
        # torch's inference mode of the test stage would forbid training
        with torch.inference_mode(False), torch.enable_grad():
            self._run()

    def _run(self) -> None:
        folder = Path(self.trainer.default_root_dir)
        dense = copy.deepcopy(self.network).eval()
        for name, stage in self.stages.items():
            if stage.cpu_only and self.device.type != "cpu":
                raise ValueError(f"method.stages.{name}: its kernels run on a CPU; choose trainer=cpu")
        context = Context(self._data, dense, self.device, int(self._data.seed), folder)
        networks: dict[str, nn.Module] = {"dense": dense}
        self.sheets = [self._measured("dense", dense, context)]
        network, seconds = copy.deepcopy(dense), 0.0
        for place, (name, stage) in enumerate(self.stages.items(), 1):
            path, file = folder / f"stage_{place}_{name}", None
            context.label, context.numbers, context.trainings = name, {}, 0
            context.folder = folder / f"stage_{place}_{name}.work"
            finished = self._finished(path)
            if finished:
                network, file, context.numbers, taken = finished
                network = stage.ready(network)
                log.info("%s: done before", name)
            else:
                started = time.perf_counter()
                try:
                    if zero_masks(network) and not (stage.keeps_zeros or stage.first_only):
                        raise ValueError("the network is pruned, and the stage would undo that")
                    network = stage.ready(stage(network, context).eval())
                except ValueError as error:
                    raise ValueError(f"method.stages.{name}: {error}") from error
                taken = time.perf_counter() - started
                if self.files:
                    file = save_artifact(path, network, {"stage": name, "dims": context.dims})
                    write_json(path.with_suffix(".json"), {"numbers": context.numbers, "seconds": taken})
                shutil.rmtree(context.folder, ignore_errors=True)
            seconds += taken
            changes = place < len(self.stages)  # the next stage may change it
            networks[name] = copy.deepcopy(network) if changes else network
            sheet = self._measured(name, network, context, context.numbers)
            if file is not None:
                sheet.bytes_file = file.stat().st_size
            self.sheets.append(sheet)
            self.numbers |= context.numbers
            numbers = (name, sheet.acc, sheet.bytes_file, sheet.macs, taken)
            log.info("%s: accuracy %.4f, %s bytes, %s MACs, %.1f s", *numbers, extra=UNDERWAY)
        if self.latency_repeats:
            images = context.test_images(100 if any(stage.result == EXITS for stage in self.stages.values()) else 1)
            add_latencies(self.sheets, networks, images, self.latency_repeats, self.block_seconds)
        self.numbers["seconds"] = seconds
        self._compressed = [network]  # in a list, which keeps it out of the module's state
        self._write(folder)
        self._drawings = context.drawings | pipeline_figures(self.sheets, networks)

    def _finished(self, path: Path) -> tuple[nn.Module, Path, dict[str, float], float] | None:
        """Return network, file, numbers and seconds of a stage that an interrupted run has finished, or None."""
        file, report = artifact_of(path), path.with_suffix(".json")
        if not self.files or file is None or not report.exists():
            return None
        content = json.loads(report.read_text())
        return load_network(file)[0].to(self.device), file, content["numbers"], content["seconds"]

    def _measured(
        self, name: str, network: nn.Module, context: Context, numbers: Mapping[str, float] | None = None
    ) -> Sheet:
        sheet = measure(network, context.example, name, context.test_accuracy(network))
        sheet.more = dict(numbers or {})
        if self.energy_seconds:
            call, on_gpu = forward_call(network, context.example), self.device.type == "cuda"
            with torch.inference_mode():
                sensed = energy.measure(call, 1, on_gpu, self.energy_seconds)
            if sensed is not None:
                sheet.energy_j, sheet.energy_source = sensed
        return sheet

    def _write(self, folder: Path) -> None:
        (folder / "sheet.json").write_text(json.dumps([sheet.row() for sheet in self.sheets], indent=1) + "\n")
        (folder / "sheet.md").write_text(markdown(self.sheets) + "\n")
        log.info("%s", markdown(self.sheets))

    def test_step(self, batch: Any, index: int) -> None:
        """Measure the accuracy of the compressed network."""
        acc = (self._compressed[0](batch.x).argmax(1) == batch.y).float().mean()
        self.log("test/acc", acc, batch_size=len(batch.y))

    def on_test_epoch_end(self) -> None:
        """Log the numbers of the last stage."""
        first, last = self.sheets[0], self.sheets[-1]
        values = {key: value for key in LOGGED if (value := getattr(last, key)) is not None}
        values |= {"simulated": float(last.simulated), "energy_uj": 1e6 * (last.energy_j or 0.0)}
        values["dense_acc"] = first.acc or 0.0
        values["acc_drop"] = (first.acc or 0.0) - (last.acc or 0.0)
        if last.bytes_file:
            values["compression"] = 4 * first.params / last.bytes_file
        for name, value in (values | self.numbers).items():
            self.log(f"test/{name}", float(value))

    def figures(self) -> dict[str, Figure]:
        """Return the figures of the stages and of the sheet."""
        return {name: draw() for name, draw in self._drawings.items()}
