"""Checkpoints: checksums, damage, and the last epoch of training however it ends."""

from __future__ import annotations

import csv
import zipfile

import pytest
import torch

from runner.execution.checkpoints import checksum_path, is_intact, write_checksum


def only_run(outputs):
    (folder,) = (path.parent for path in outputs.glob("*/*/*/.lock"))
    return folder


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_checkpoint_is_intact_as_long_as_no_byte_changes(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"weights": torch.arange(1000.0)}, path)
    assert not is_intact(path)  # from elsewhere: no checksum
    write_checksum(path, path)
    assert is_intact(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert zipfile.is_zipfile(path)  # its table of contents is as it was
    assert not is_intact(path)


def test_a_kill_between_checksum_and_file_leaves_a_valid_pair(tmp_path):
    path, new = tmp_path / "last.ckpt", tmp_path / "new.part"
    path.write_bytes(b"old")
    write_checksum(path, path)
    new.write_bytes(b"new")
    write_checksum(path, new, keep_old=True)
    assert is_intact(path)
    new.replace(path)
    assert is_intact(path)
    path.write_bytes(b"other")
    assert not is_intact(path)


@pytest.mark.parametrize("damage", ["zeros in the middle", "no checksum", "another run's"])
def test_a_damaged_last_checkpoint_starts_the_run_anew(call, tiny, tmp_path, damage):
    call(*tiny)
    folder = only_run(tmp_path)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    result = (folder / "result.json").read_text()
    (folder / "result.json").unlink()
    content = bytearray(checkpoint.read_bytes())
    if damage == "zeros in the middle":
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
        checkpoint.write_bytes(content)
    elif damage == "no checksum":
        checksum_path(checkpoint).unlink()
    else:
        torch.save({"state_dict": {}}, checkpoint)
    code, printed = call(*tiny)
    assert code == 0, printed
    assert "last.ckpt is damaged or was not written by this run: the run starts anew" in printed
    assert result.count("test/acc") == (folder / "result.json").read_text().count("test/acc")
    assert len(rows(folder)) == 2


def test_training_that_ends_by_max_steps_leaves_its_checkpoint(call, tiny, tmp_path):
    code, printed = call(*tiny, "schedule.max_epochs=5", "+schedule.max_steps=3", "dataset.batch_size=400")
    assert code == 0, printed
    folder = only_run(tmp_path)
    assert is_intact(folder / "checkpoints" / "last.ckpt")
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert rows(folder)[-1]["step"] == "3"


def test_an_epoch_without_validation_repeats_no_value(call, tiny, tmp_path):
    code, printed = call(*tiny, "schedule.max_epochs=3", "+trainer.check_val_every_n_epoch=2")
    assert code == 0, printed
    losses = [row["val/loss"] for row in rows(only_run(tmp_path))]
    assert [bool(loss) for loss in losses] == [False, True, False]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+trainer.max_time=00:00:00:00"], "training ended before its first batch"),
        (["method.monitor=val/acc", "+schedule.check_val_every_n_epoch=5"], "no epoch has measured val/acc"),
    ],
)
def test_a_run_without_training_or_without_its_best_epoch_is_not_finished(call, tiny, tmp_path, overrides, said):
    for _ in range(2):  # asked again it is no better
        code, printed = call(*tiny, *overrides)
        assert code == 2, printed
        assert said in printed
        assert not list(tmp_path.rglob("result.json"))


def test_users_callbacks_join_the_runners(call, tiny, tmp_path):
    stopping = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/loss, patience: 1, min_delta: 100}"
    code, printed = call(*tiny, "schedule.max_epochs=20", f"+trainer.callbacks=[{stopping}]")
    assert code == 0, printed
    folder = only_run(tmp_path)
    assert len(rows(folder)) == 2  # no improvement by 100: the second epoch is the last
    assert is_intact(folder / "checkpoints" / "last.ckpt")


def test_a_chosen_callback_counts_in_the_id_unless_it_only_watches(call, tiny, tmp_path):
    arguments = [*tiny, "schedule.max_epochs=20"]
    stopping = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1"]
    code, printed = call(*arguments, *stopping, "callbacks.early_stopping.min_delta=100")
    assert code == 0, printed
    assert len(rows(only_run(tmp_path))) == 2
    from runner.config.address import Run

    plain, watched = Run.compose(arguments), Run.compose([*arguments, "callbacks=lr_monitor"])
    assert plain.id == watched.id
    assert plain.id != Run.compose([*arguments, *stopping]).id
