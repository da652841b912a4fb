"""Which errors of a running stage are mistakes of the user."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException

from datasets.checks import check_positive
from runner.config.messages import stage_errors
from runner.errors import UserError


def test_a_value_that_a_data_set_or_method_refuses_is_a_mistake():
    with pytest.raises(UserError, match=r"dataset\.batch_size"), stage_errors():
        check_positive("dataset", batch_size=-1)


def test_settings_that_lightning_refuses_are_a_mistake():
    with pytest.raises(UserError, match="no logger"), stage_errors():
        raise MisconfigurationException("Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger.")


def test_an_error_of_a_library_keeps_its_traceback():
    with pytest.raises(ValueError, match="could not convert") as error, stage_errors():
        torch.tensor(float("x"))
    assert not isinstance(error.value, UserError)
    with pytest.raises(RuntimeError), stage_errors():
        torch.ones(2, 3) @ torch.ones(2, 3)
