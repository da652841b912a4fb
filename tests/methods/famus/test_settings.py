"""Settings of the noisy-label methods that are out of range."""

from __future__ import annotations

import pytest
from torch import nn

from methods.famus.class_balanced import ClassBalanced
from methods.famus.coteaching import CoTeaching
from methods.famus.dividemix import DivideMix
from methods.famus.losses import LDAM, CosineHead
from methods.famus.mlc import MetaLossCorrection
from methods.famus.mw_net import WeightNet
from tests.methods.networks import small_network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassBalanced(small_network(), start_epoch=-1), "method.start_epoch must not be negative"),
        (lambda: CoTeaching(small_network(), 0.4, gradual_epochs=0), "method.gradual_epochs must be positive"),
        (lambda: CoTeaching(small_network(), 0.4, decay_start=-1), "method.decay_start must not be negative"),
        (lambda: CoTeaching(small_network(), 0.4, late_beta1=1.0), r"method.late_beta1 must be in \[0, 1\)"),
        (lambda: DivideMix(small_network(), clean_threshold=1.5), "method.clean_threshold must be a number in"),
        (lambda: DivideMix(small_network(), unlabeled_weight=-1.0), "method.unlabeled_weight must not be negative"),
        (lambda: LDAM(max_margin=-1.0), "method.loss.max_margin must not be negative"),
        (lambda: LDAM(scale=0.0), "method.loss.scale must be positive"),
        (lambda: CosineHead(nn.Linear(2, 2), scale=0.0), "method.head.scale must be positive"),
        (lambda: WeightNet(0), "method.weight_net.hidden_units must be positive"),
        (lambda: MetaLossCorrection(small_network(), virtual_lr=0.0), "method.virtual_lr must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
