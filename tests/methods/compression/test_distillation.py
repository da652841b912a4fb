"""Losses of distillation, and what they train."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from methods.architectures.convnet import ConvNet
from methods.compression.distillation.attention_transfer import AttentionTransfer, attention_loss, attention_map
from methods.compression.distillation.crd import CRD, ContrastMemory, contrast_loss
from methods.compression.distillation.features import POOLED, features_of, last_maps
from methods.compression.distillation.fitnets import FitNets, regressor
from methods.compression.distillation.kd import KnowledgeDistillation, soft_target_loss
from methods.compression.training import Recipe
from tests.methods.compression.problems import ONE, context, dense, digits


def test_soft_targets_at_high_temperature_match_centred_logits():
    z_s, z_t = torch.randn(4, 10, dtype=torch.double, requires_grad=True), torch.randn(4, 10, dtype=torch.double)
    soft_target_loss(z_s, z_t, 1e4).backward()
    expected = (z_s - z_s.mean(1, keepdim=True) - z_t + z_t.mean(1, keepdim=True)).detach() / 10 / 4
    torch.testing.assert_close(z_s.grad, expected, atol=1e-5, rtol=1e-3)
    assert float(soft_target_loss(z_t, z_t, 4.0)) == pytest.approx(0, abs=1e-12)


def test_attention_does_not_depend_on_scale():
    maps = torch.rand(3, 8, 4, 4)
    torch.testing.assert_close(attention_map(maps), attention_map(5 * maps))
    assert float(attention_loss(maps, 3 * maps)) == pytest.approx(0, abs=1e-12)
    assert float(attention_loss(torch.rand(3, 5, 8, 8), maps)) > 0


@pytest.mark.parametrize(("student", "teacher"), [(8, 4), (4, 8), (5, 4), (4, 4)])
def test_regressors_map_a_map_to_the_shape_of_another(student, teacher):
    x = torch.rand(2, 3, student, student)
    assert regressor(x.shape, torch.Size([2, 6, teacher, teacher]))(x).shape == (2, 6, teacher, teacher)
    with pytest.raises(ValueError, match="cannot be regressed"):
        regressor(torch.Size([2, 3, 3, 3]), torch.Size([2, 3, 7, 7]))


def test_the_contrast_loss_is_its_formula_and_falls_when_embeddings_match():
    scores = torch.tensor([[0.5, 0.1, 0.2]])
    k_n = 2 / 50
    expected = -(
        torch.log(torch.tensor(0.5 / (0.5 + k_n))) + sum(torch.log(torch.tensor(k_n / (s + k_n))) for s in (0.1, 0.2))
    )
    assert float(contrast_loss(scores, 2, 50)) == pytest.approx(float(expected), rel=1e-5)
    torch.manual_seed(0)
    labels = torch.arange(40) % 10
    memory = ContrastMemory(8, 8, labels, dim=8, negatives=20)
    memory.embed_student.load_state_dict(memory.embed_teacher.state_dict())
    features, index = torch.randn(16, 8), torch.arange(16)
    losses = [float(memory(features, features, index, labels[:16]).detach()) for _ in range(12)]
    assert losses[-1] < losses[0]
    torch.testing.assert_close(memory.bank_teacher.norm(dim=1)[:16], torch.ones(16))
    drawn = memory.draw(index, labels[:16])
    assert (labels[drawn[:, 1:]] != labels[:16, None]).all()


def test_maps_are_the_last_ones_of_each_resolution():
    network = dense()
    names = last_maps(network, torch.rand(1, 1, 8, 8))
    maps = features_of(network, names, torch.rand(2, 1, 8, 8))
    assert [maps[name].shape[-1] for name in names] == [8, 4]
    assert maps[POOLED].shape == (2, 16)


STUDENT = partial(ConvNet, widths=[4, 8])
STAGES = {
    "kd": lambda: KnowledgeDistillation(STUDENT, recipe=ONE),
    "fitnets": lambda: FitNets(student=STUDENT, recipe=ONE),
    "fitnets, two stages": lambda: FitNets("two_stage", 1, student=STUDENT, a=0.9, recipe=ONE),
    "attention transfer": lambda: AttentionTransfer(student=STUDENT, recipe=ONE),
    "crd": lambda: CRD(negatives=32, student=STUDENT, recipe=ONE),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_distillation_trains_the_student_alone(name):
    surroundings = context()
    before = copy.deepcopy(surroundings.dense.state_dict())
    student = STAGES[name]()(dense(), surroundings)
    assert sum(p.numel() for p in student.parameters()) < 700
    assert all(torch.equal(before[n], v) for n, v in surroundings.dense.state_dict().items())
    assert not student._modules["layers"]._forward_hooks


def test_the_second_of_two_stages_trains_on_soft_targets_alone():
    stage = FitNets("two_stage", 1, student=STUDENT, r=0.0, a=1.0, recipe=ONE)
    assert stage.prepare(STUDENT(**digits().dims), dense(), context()) == []
    batch = next(iter(digits().train_dataloader()))
    loss = stage.loss(dense().eval(), dense().eval(), batch)
    stage.finish()
    assert float(loss) == pytest.approx(0, abs=1e-6)  # the student's logits are the teacher's


def test_unlabelled_images_teach_what_the_teacher_knows():
    recipe = Recipe(25, 0.1, schedule="onecycle")
    student = KnowledgeDistillation(STUDENT, transfer_set="unlabeled", recipe=recipe)(dense(), context())
    assert context().test_accuracy(student) > 0.5


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="transfer_set=train"):
        CRD(transfer_set="unlabeled")
    with pytest.raises(ValueError, match="temperature"):
        KnowledgeDistillation(temperature=0.0)
    from datasets.images.datamodule import Digits

    data = Digits(size=8)
    data.setup()
    with pytest.raises(ValueError, match=r"dataset\.holdout"):
        KnowledgeDistillation(transfer_set="unlabeled").check(dense(), data)
    with pytest.raises(ValueError, match="a must be above 0"):
        FitNets("two_stage")
