"""Networks, change of speed, training and whole runs on few generated sessions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer, seed_everything

from datasets.faces.clips import FaceClips
from datasets.faces.session import CameraMap
from datasets.faces.synthetic_data import SyntheticFaces
from methods.calibrationphys.augmentation import (
    change_speed,
    normalise_flow,
    normalise_rgb,
    resample_columns,
)
from methods.calibrationphys.module import CalibrationPhys
from methods.calibrationphys.networks import CameraPhysNet2D, CameraPhysNet3D
from methods.calibrationphys.predictor import measure, module_predictor
from methods.calibrationphys.single_camera import ContrastPhys, Gideon2021, SiNC
from methods.calibrationphys.supervised import Supervised
from tests.methods.resumption import check_killed_run_goes_on

SMALL = {
    "sessions": {"train": 4, "val": 3, "test": 2},
    "scene": {"grid": 4, "seconds": 13.0},
    "fs": 15.0,
    "clip_length": 120,
    "batch_size": 4,
    "steps_per_epoch": 2,
}
RUN = (
    *("logger=csv", "dataset.sessions={train:4,val:3,test:2}", "dataset.scene.grid=4", "dataset.scene.seconds=13"),
    *("dataset.fs=15", "dataset.clip_length=120", "dataset.batch_size=4", "dataset.steps_per_epoch=2"),
    *("model.width=8", "schedule.max_epochs=3", "method.lr=0.003"),
)


def make_data(**options) -> SyntheticFaces:
    data = SyntheticFaces(**SMALL | options)
    data.setup()
    return data


@pytest.fixture(scope="module")
def data() -> SyntheticFaces:
    return make_data()


def train(tmp_path, module, data, epochs: int = 1) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        num_sanity_val_steps=0,
    )
    module.prepare(data)
    trainer.fit(module, data)
    return trainer


# ---- clips ----


def test_resampling_is_linear_interpolation():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, 40))
    start, span = torch.tensor([2.0, 5.0]), torch.tensor([30, 21])
    found = resample_columns(torch.from_numpy(values), start, span, 25).numpy()
    for b in range(2):
        at = float(start[b]) + np.linspace(0, int(span[b]) - 1, 25)
        for row in range(3):
            np.testing.assert_allclose(found[b, row], np.interp(at, np.arange(40), values[b, row]), atol=1e-4)


def test_a_longer_cut_makes_the_rate_higher():
    t = torch.arange(400) / 30
    wave = torch.sin(2 * torch.pi * 1.0 * t)[None]
    fast = resample_columns(wave, torch.tensor([0.0]), torch.tensor([360]), 300)
    power = torch.fft.rfft(fast * torch.hann_window(300), 8192).abs()[0]
    assert float(power.argmax()) * 30 / 8192 == pytest.approx(359 / 299, abs=0.02)


def test_cameras_share_the_change_of_speed_unless_told():
    torch.manual_seed(0)
    maps = torch.randn(6, 1, 2, 120)
    clips, places = change_speed({"a": maps, "b": maps}, 100, (0.9, 1.2), "shared")
    torch.testing.assert_close(clips["a"], clips["b"])
    spans = places["a"][1]
    assert spans.min() >= 90
    assert spans.max() <= 120
    assert len(spans.unique()) > 2
    clips, _ = change_speed({"a": maps, "b": maps}, 100, (0.9, 1.2), "independent")
    assert not torch.allclose(clips["a"], clips["b"])


def test_normalisations():
    torch.manual_seed(0)
    rgb = 100 + torch.randn(2, 3, 4, 200) * torch.rand(2, 3, 4, 1)
    normal = normalise_rgb(rgb)
    torch.testing.assert_close(normal.mean(-1), torch.zeros(2, 3, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std(-1, correction=0), torch.ones(2, 3, 4), atol=1e-2, rtol=0)
    torch.testing.assert_close(normalise_rgb(2 * rgb), normal, atol=1e-3, rtol=0)  # brightness does not matter
    rgb[0, :, 0] = 0
    assert (normalise_rgb(rgb)[0, :, 0] == 0).all()  # a black patch
    flow = torch.randn(2, 1, 4, 200) * torch.tensor([1.0, 2, 3, 4])[:, None]
    stds = normalise_flow(flow).std(-1)[:, 0]
    assert (stds[:, 3] > 3 * stds[:, 0]).all()  # patches keep their weights


# ---- training ----


def test_gradient_reaches_every_network(data, tmp_path):
    module = CalibrationPhys(CameraPhysNet2D(**data.dims, width=8))
    module.prepare(data)
    batch = next(iter(data.train_dataloader()))
    loss = module.loss(*module.augmented(batch))
    loss.backward()
    for network in module.network.networks.values():
        assert all(p.grad is not None for p in network.parameters())
        assert network.head.weight.grad.abs().sum() > 0


def test_three_cameras_average_over_their_pairs(data):
    three = make_data(cameras=["webcam", "phone", "nir"])
    assert three.dims["channels"] == {"webcam": 3, "phone": 3, "nir": 1}
    module = CalibrationPhys(CameraPhysNet2D(**three.dims, width=8)).eval()
    module.prepare(three)
    clips, factor = module.augmented(next(iter(three.train_dataloader())))
    whole = module.loss(clips, factor)
    pairs = []
    for left_out in three.cameras:
        maps = {name: values for name, values in clips.maps.items() if name != left_out}
        pairs.append(module.loss(FaceClips(maps, *list(vars(clips).values())[1:]), factor))
    torch.testing.assert_close(whole, torch.stack(pairs).mean())


def test_sessions_without_a_camera_count_where_they_can(data):
    module = CalibrationPhys(CameraPhysNet2D(**data.dims, width=8)).eval()
    module.prepare(data)
    clips, factor = module.augmented(next(iter(data.train_dataloader())))
    clips.present["phone"][0] = False
    partly = module.loss(clips, factor)
    rest = {name: values[1:] for name, values in clips.maps.items()}
    present = {name: values[1:] for name, values in clips.present.items()}
    without = FaceClips(rest, present, {}, clips.wave[1:], clips.rate[1:], clips.level[1:], clips.sessions[1:], 15.0)
    torch.testing.assert_close(partly, module.loss(without, factor))
    clips.present["phone"][:] = False
    assert module.loss(clips, factor) is None


def test_absent_cameras_do_not_enter_the_statistics_of_a_network(data):
    module = CalibrationPhys(CameraPhysNet2D(**data.dims, width=8)).train()
    module.prepare(data)
    batch = next(iter(data.train_dataloader()))
    batch.present["phone"][0] = False
    batch.maps["phone"][0] = 0
    clips, factor = module.augmented(batch)
    assert float(clips.maps["phone"][0].abs().max()) == 0
    module.loss(clips, factor)
    found = module.network.of("phone").stem[1].running_var.clone()
    module.network.of("phone").stem[1].reset_running_stats()
    module.network("phone", clips.maps["phone"][1:])
    torch.testing.assert_close(found, module.network.of("phone").stem[1].running_var)


def unequal(data: SyntheticFaces, cameras: dict[int, list[str]] | None = None) -> SyntheticFaces:
    """Data whose first validation session is twice as long as the others; `cameras` of a session are the ones kept."""
    made = make_data()
    made.load("train", "val")
    for number, session in enumerate(made.sessions["val"]):
        kept = (cameras or {}).get(number, list(session.maps))
        repeat = 2 if number == 0 else 1
        session.maps = {n: np.concatenate([session.maps[n]] * repeat, axis=-1) for n in kept}
        session.moments = {n: np.concatenate([session.moments[n]] * repeat) for n in kept}
        session.wave, session.rate = np.tile(session.wave, repeat), np.tile(session.rate, repeat)
    return made


@pytest.mark.parametrize("cls", [CalibrationPhys, SiNC, ContrastPhys, Supervised])
def test_validation_sessions_may_have_different_lengths(cls, data, tmp_path):
    options = {"rows": 1} if cls is ContrastPhys else {}
    module = cls(CameraPhysNet2D(**data.dims, width=8), **options)
    trainer = train(tmp_path, module, unequal(data))
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


def test_sessions_without_a_common_pair_of_cameras_are_refused_before_training(data, tmp_path):
    apart = unequal(data, {0: ["webcam"], 1: ["phone"]})
    with pytest.raises(ValueError, match="no two val sessions have the same pair of cameras"):
        train(tmp_path, CalibrationPhys(CameraPhysNet2D(**data.dims, width=8)), apart)


def test_frozen_camera_stays_as_it_was(data, tmp_path):
    source = Supervised(CameraPhysNet2D(**data.dims, width=8), lr=0.01)
    trainer = train(tmp_path, source, data)
    trainer.save_checkpoint(tmp_path / "source.ckpt")
    module = CalibrationPhys(
        CameraPhysNet2D(**data.dims, width=8),
        lr=0.01,
        pretrained=tmp_path / "source.ckpt",
        pretrained_mode="frozen",
        pretrained_camera="webcam",
    )
    moving = {name: value.clone() for name, value in module.network.of("phone").state_dict().items()}
    train(tmp_path, module, data)
    for name, value in module.network.of("webcam").state_dict().items():
        torch.testing.assert_close(value, source.network.of("webcam").state_dict()[name], atol=0, rtol=0)
    assert not torch.allclose(moving["head.weight"], module.network.of("phone").head.weight)


def test_init_starts_from_the_checkpoint_and_moves(data, tmp_path, caplog):
    source = Supervised(CameraPhysNet2D(**data.dims, width=8), lr=0.01)
    train(tmp_path, source, data).save_checkpoint(tmp_path / "source.ckpt")
    module = CalibrationPhys(
        CameraPhysNet2D(**data.dims, width=8),
        lr=0.01,
        pretrained=tmp_path / "source.ckpt",
        pretrained_mode="init",
        pretrained_camera="phone",
        source_camera="webcam",
    )
    start = source.network.of("webcam").head.weight
    torch.testing.assert_close(module.network.of("phone").head.weight, start)
    train(tmp_path, module, data)
    assert not torch.allclose(module.network.of("phone").head.weight, start)
    other = CameraPhysNet2D({"tablet": 3, "phone": 3}, 16, width=8)
    CalibrationPhys(other, pretrained=tmp_path / "source.ckpt", pretrained_mode="init")
    assert "has no camera tablet: its network starts from that of camera webcam" in caplog.text


@pytest.mark.parametrize("cls", [Gideon2021, ContrastPhys, SiNC, Supervised])
def test_other_learned_methods_train_each_camera(cls, data, tmp_path):
    seed_everything(0, verbose=False)
    options = {"rows": 1} if cls is ContrastPhys else {}
    module = cls(CameraPhysNet2D(**data.dims, width=8), lr=0.003, **options)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = train(tmp_path, module, data)
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    for camera in data.cameras:
        name = f"network.networks.{camera}.head.weight"
        assert not torch.allclose(before[name], module.state_dict()[name])


@pytest.mark.parametrize(
    ("cls", "side", "most"),
    [(CameraPhysNet2D, 4, 1), (CameraPhysNet2D, 8, 4), (CameraPhysNet3D, 8, 1), (CameraPhysNet3D, 32, 4)],
)
def test_contrastphys_refuses_rows_that_would_be_copies(cls, side, most):
    network = cls({"a": 3}, side**2, width=8).eval()
    ContrastPhys(network, rows=most)
    with pytest.raises(ValueError, match=rf"method\.rows=9: .* distinguish {most} place"):
        ContrastPhys(network, rows=9)
    if most > 1:
        waves = network.of("a").rows(torch.randn(1, 3, side**2, 60), most)[0]
        assert float((waves[0] - waves[1]).detach().abs().max()) > 0


def test_shuffled_pairs_contrast_other_sessions(data):
    torch.manual_seed(0)
    network = CameraPhysNet2D(**data.dims, width=8).eval()
    losses = []
    for shuffle in (False, True):
        module = CalibrationPhys(network, shuffle_pairs=shuffle, temperature=0.01).eval()
        module.prepare(data)
        torch.manual_seed(1)
        losses.append(float(module.loss(*module.augmented(next(iter(data.train_dataloader()))))))
    assert losses[0] != pytest.approx(losses[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"method\.temperature"),
        ({"similarity": "dot"}, r"method\.similarity"),
        ({"speed": [1.2, 0.9]}, r"method\.speed"),
        ({"band": [3.0, 1.0]}, r"method\.band"),
        ({"pretrained_mode": "frozen"}, r"method\.pretrained="),
        ({"pretrained_mode": "init", "pretrained": "/none.ckpt"}, "is no file"),
        ({"pretrained_mode": "init", "pretrained": "/n", "pretrained_camera": "x"}, r"method\.pretrained_camera"),
    ],
)
def test_wrong_arguments_are_refused(options, message, data):
    with pytest.raises(ValueError, match=message):
        CalibrationPhys(CameraPhysNet2D(**data.dims, width=8), **options)


def test_a_speed_that_the_data_cannot_give_is_refused(data):
    module = CalibrationPhys(CameraPhysNet2D(**data.dims, width=8), speed=[0.5, 1.5])
    with pytest.raises(ValueError, match=r"dataset\.margin"):
        module.check_training(data)
    module = CalibrationPhys(CameraPhysNet2D(**data.dims, width=8), band=[1.0, 8.0])
    with pytest.raises(ValueError, match=r"method\.band"):
        module.prepare(data)


# ---- whole runs ----


def test_run_of_a_formula(call: Callable, tmp_path):
    options = ["dataset.scene.grid=4", "dataset.sessions.test=2", "dataset.test_levels=[0,2]", "logger=csv"]
    code, printed = call("method=calibrationphys/pos", *options, f"paths.outputs={tmp_path}")
    assert code == 0, printed
    assert "test/mae_webcam" in printed
    figures = {path.stem for path in tmp_path.glob("*/*/*/figures/*.png")}
    assert figures == {"wave", "spectra", "scatter", "bland_altman", "error_by_level"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=calibrationphys/chrom", "dataset.cameras=[webcam,nir]"], "needs 3 colours"),
        (["method=calibrationphys/flowmean", "dataset.input=rgb"], "dataset.input=flow"),
        (["method=calibrationphys", *RUN, "dataset.cameras=[webcam]"], "at least two cameras"),
        (["method=calibrationphys", *RUN, "dataset.batch_size=1"], "raise dataset.batch_size"),
        (["method=calibrationphys", *RUN, "method.weight_decay=-1"], "method.weight_decay must not be negative"),
        (["method=calibrationphys", *RUN, "dataset.fs=0"], "dataset.fs must be positive"),
        (["method=calibrationphys", *RUN, "dataset.eval_seconds=0"], "dataset.eval_seconds must be positive"),
        (["method=calibrationphys", *RUN, "dataset.eval_seconds=40"], "dataset.eval_seconds"),
        (["method=calibrationphys", *RUN, "dataset.clip_length=400"], "dataset.clip_length"),
        (["method=calibrationphys", *RUN, "dataset.sessions.val=1"], "val has 1"),
        (["method=calibrationphys", *RUN, "dataset.data_seed=-1"], "dataset.data_seed must be a whole number"),
        (["method=calibrationphys", *RUN, "dataset.cameras=[webcam,kinect]"], "dataset.cameras"),
        (["method=calibrationphys", "dataset=face_folder", "dataset.folder=/no/such"], "dataset.folder"),
    ],
)
def test_mistakes_end_in_one_message(arguments, message, call: Callable, tmp_path):
    small = ["logger=csv", "dataset.scene.grid=4", "dataset.sessions.test=2"]
    more = [] if "face_folder" in str(arguments) or "width" in str(arguments) else small
    code, printed = call(*arguments, *more, f"paths.outputs={tmp_path}")
    assert code == 2, printed
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_killed_run_goes_on(call: Callable, spawn: Callable, tmp_path):
    check_killed_run_goes_on(call, spawn, tmp_path, ["method=calibrationphys", *RUN], epochs=1)


@pytest.mark.slow
def test_networks_of_generated_faces_find_the_rate_of_a_real_one(runner_data, tmp_path):
    """The map of a real face; the truth by the contact sensor is 75.4 per minute."""
    file = runner_data / "rppg" / "derived" / "vitallens_clip1_stmap.npz"
    if not file.exists():
        pytest.skip("rppg/derived is missing")
    settings = {"grid": 4, "seconds": 31.0}
    data = make_data(
        sessions={"train": 60, "val": 4, "test": 2}, clip_length=150, batch_size=16, steps_per_epoch=40, scene=settings
    )
    seed_everything(0, verbose=False)
    module = CalibrationPhys(CameraPhysNet2D(**data.dims, width=16), lr=0.003)
    train(tmp_path, module, data, epochs=6)
    module.eval()
    stored = np.load(file)
    rgb = stored["M"].reshape(-1, 4, 2, 4, 2, 3).mean(axis=(2, 4)).reshape(-1, 16, 3)
    t = np.arange(len(rgb)) / float(stored["fs"])
    camera = CameraMap(rgb, np.zeros(rgb.shape[:2], np.float32), t)
    for name in data.cameras:
        found = measure({"clip": camera}, module_predictor(module, name), 11.5, step=20).rates["clip"][0]
        assert found == pytest.approx(75.4, abs=3), name


@pytest.mark.slow
def test_training_beats_shuffled_pairs(tmp_path):
    """Half a minute of training: pairs that belong together teach a rate, shuffled ones do not."""
    data = make_data(
        sessions={"train": 30, "val": 3, "test": 6},
        clip_length=150,
        batch_size=16,
        steps_per_epoch=50,
        scene={"grid": 4, "level": 0.5, "seconds": 31.0},
    )
    errors = []
    for shuffle in (False, True):
        seed_everything(0, verbose=False)
        module = CalibrationPhys(CameraPhysNet2D(**data.dims, width=8), lr=0.01, shuffle_pairs=shuffle)
        trainer = train(tmp_path, module, data)
        errors.append(trainer.test(module, data, verbose=False)[0]["test/mae_phone"])
    assert errors[0] < 8
    assert errors[1] > 2 * errors[0]
