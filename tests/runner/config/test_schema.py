"""Root config: wrong values end before anything runs, with one message and exit code 2."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.config.address import Run
from runner.config.compose import compose_run
from runner.config.messages import USER_ERRORS
from runner.errors import UserError

BASE = ["method=graphnorm", "dataset=atlas", "logger=csv"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages=[fitt]", "stages.0: must be 'fit' or 'test', got 'fitt'"),
        ("stages=fit", "stages: must be a valid list"),
        ("stages=[]", "stages: List should have at least 1 item"),
        ("stages=[test,fit]", "stages: give each stage once, fit before test"),
        ("stages=[fit,fit]", "stages: give each stage once"),
        ("seed=1.5", "seed: must be a valid integer, got 1.5"),
        ("seed=true", "seed: must be a valid integer, got True"),
        ("seed=null", "seed: must be a valid integer, got None"),
        ("seed=-1", "seed: must be greater than or equal to 0"),
        ("wait=maybe", "wait: must be a valid boolean, got 'maybe'"),
        ("rerun=perhaps", "rerun: must be a valid boolean"),
        ("rerun=1", "rerun: must be a valid boolean"),
        ("compile=null", "compile: must be a valid boolean"),
        ("loader.workers=-1", "loader.workers: must be greater than or equal to 0"),
        ("threads=-1", "threads: must be greater than or equal to 0"),
        ("threads=a", "threads: must be a valid integer"),
        ("checkpoint.every_seconds=abc", "checkpoint.every_seconds: must be a valid number"),
        ("checkpoint.every_seconds=nan", "checkpoint.every_seconds: must be a finite number"),
        ("checkpoint=null", "checkpoint: "),
        ("schedule=5", "schedule: must be a valid dictionary, got 5"),
        ("needs=abc", "needs: must be a valid dictionary, got 'abc'"),
        ("+needs.a=5", "needs.a"),
        ("paths.outputs=''", "paths.outputs: String should have at least 1 character"),
        ("paths.data=null", "paths.data: must be a valid string"),
        ("alias=a/b", "alias: String should match pattern"),
        (f"alias={'x' * 5000}", "alias: String should match pattern"),
        ("tags=mine", "tags: must be a valid list"),
        ("+ckpt_path=/nowhere/x.ckpt", "unknown key ckpt_path; known at this place: seed, schedule"),
        ("+loader.worker=1", "unknown key loader.worker; known at this place: workers"),
        ("+callbacks.early=5", "callbacks.early"),
        ("+method.x={1:a,b:2}", "method.x: keys must be all text or all numbers, got 1, 'b'"),
        ("+vars.x={a:{true:1,b:2}}", "vars.x.a: keys must be all text or all numbers, got True, 'b'"),
        ("paths.outputs=~/x", "paths.outputs=~/x: token recognition error"),
        ("method.lr=[1", "method.lr=[1: no viable alternative"),
        ("trainer=null", ""),
        ("method=null", ""),
    ],
)
def test_a_wrong_value_is_named(override, message):
    with pytest.raises(USER_ERRORS) as caught:
        Run.compose([*BASE, override])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_long_value_is_shortened():
    with pytest.raises(UserError) as caught:
        Run.compose([*BASE, f"threads={'a' * 5000}"])
    assert len(str(caught.value)) < 300


def test_several_mistakes_are_all_named():
    with pytest.raises(UserError) as caught:
        Run.compose([*BASE, "seed=-1", "threads=x"])
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["seed", "threads"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method._target_=os.system"], "method._target_=os.system is not a class with the attribute `tasks`"),
        (["method._target_=no.such"], "method._target_=no.such cannot be imported"),
        (["model._target_=torch.nn.Linear"], "model._target_=torch.nn.Linear is not a class"),
        (["schedule.max_epochs=0"], "schedule.max_epochs must be a positive whole number"),
        (["+schedule.max_steps=1.5"], "schedule.max_steps must be a positive whole number"),
        (["+trainer.max_epochs=0"], "trainer.max_epochs must be a positive whole number"),
        (["+trainer.limit_train_batches=0"], "trainer.limit_train_batches=0 leaves nothing to do"),
        (["+schedule.limit_train_batches=0.0"], "schedule.limit_train_batches=0 leaves nothing to do"),
        (["+trainer.limit_test_batches=0"], "trainer.limit_test_batches=0 leaves nothing to do"),
        (["+trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches must be positive, got 0"),
        (["+schedule.check_val_every_n_epoch=0"], "schedule.check_val_every_n_epoch must be positive, got 0"),
        (["+trainer.val_check_interval=0.0"], "trainer.val_check_interval must be positive, got 0.0"),
        (["+trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val must not be negative, got -1"),
        (["+trainer.max_epochs=7", "schedule.max_epochs=2"], "schedule.max_epochs=2 and trainer.max_epochs=7 say the"),
        (["trainer=gpu"], "finds no GPU on this machine"),
    ],
)
def test_groups_are_checked_before_data_are_read(call, tiny, tmp_path, overrides, message):
    code, printed = call(*tiny, *overrides, "paths.data=/nowhere")
    assert code == 2
    assert message in printed
    assert "Traceback" not in printed
    assert "Error executing job" not in printed
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=graphnorm", "dataset=wikitext2"], "this method does graph-classification, but the data set is for"),
        (["method=esparse", "model=gin"], "this model does graph-classification, but the data set is for"),
        (["threads=1"], "choose a method (method=<name>) or an experiment (experiment=<paper>/<name>)"),
        (["experiment=f2at/digits", "~method.eps"], "eps refers to method.eps, which is not set"),
        (["method=graphnorm", "dataset=atlas", "callbacks=[nosuch]"], "there is no callbacks=nosuch; choose from"),
        (["experiment="], "experiment= names nothing; python -m runner --help experiment lists the options"),
        (["method=graphnorm", "dataset="], "dataset= names nothing"),
        (["method=graphnorm", "model.hiden=3"], "unknown key model.hiden"),
    ],
)
def test_choices_that_do_not_fit(call, tmp_path, arguments, message):
    code, printed = call(*arguments, "logger=csv", f"paths.outputs={tmp_path}")
    assert code == 2
    assert message in printed
    assert "Interpolation" not in printed


VALUES = st.one_of(
    st.sampled_from(["null", "true", "[]", "{}", "''", "-1", "0", "1e400", "nan", "[fit]", "abc", "{a: 1}", "[1,2]"]),
    st.integers(-(10**12), 10**12).map(str),
    st.floats(allow_nan=True).map(str),
    st.text("abcxyz.,[]{}'\"=:~+$ ", max_size=12),
)
KEYS = (
    *("seed", "schedule", "stages", "needs", "alias", "paths", "paths.data", "paths.outputs", "loader"),
    *("loader.workers", "threads", "compile", "rerun", "wait", "checkpoint", "checkpoint.keep", "tags", "callbacks"),
    *("checkpoint.every_seconds", "vars", "trainer.precision", "method.lr"),
)


def check_overrides(overrides):
    """Compose and address a run; errors that are not for the user fail the test."""
    with suppress(*USER_ERRORS):
        run = Run(*compose_run([*BASE, *overrides]))
        assert re.fullmatch("[0-9a-f]{12}", run.id)
        assert run.folder.name == run.id


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=3))
def test_any_override_composes_or_ends_in_one_message(overrides):
    check_overrides([f"{key}={value}" for key, value in overrides])


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["+", "++", "~"]), st.sampled_from(KEYS), VALUES)
def test_any_added_or_deleted_key_does_too(sign, key, value):  # composed by Hydra anew, which takes longer
    check_overrides([f"{sign}{key}={value}"])
