"""Masks, surgery of channels, schedules, controls."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

from methods.architectures.cifar_resnet import CifarResNet
from methods.architectures.convnet import ConvNet
from methods.architectures.mobilenet import MobileNetV2
from methods.architectures.resnet import ResNet
from methods.architectures.wide_resnet import WideResNet
from methods.compression.compact.lenet import LeNet5Caffe
from methods.compression.compact.mobilenet import MobileNetV1, MobileNetV2Compact
from methods.compression.compact.shufflenet import ShuffleNetV1, ShuffleNetV2
from methods.compression.compact.squeezenet import SqueezeNet
from methods.compression.compact.vgg import CompressionVGG
from methods.compression.macs import count_macs
from methods.compression.pruning.channels import find_units, keep_channels, mask_channels, strongest
from methods.compression.pruning.controls import Scratch, SmallDense, reinitialize, scaled
from methods.compression.pruning.depgraph import DependencyGraphPruning
from methods.compression.pruning.l1_filter import L1FilterPruning, l1_scores, sensitivity_scan
from methods.compression.pruning.lottery import LotteryTicket, next_masks
from methods.compression.pruning.magnitude import MagnitudePruning
from methods.compression.pruning.masks import global_masks, layer_masks, lottery_density, smallest, sparsity_after
from methods.compression.pruning.obd import OptimalBrainDamage, fisher_diagonal
from methods.compression.pruning.random_filters import RandomFilterPruning
from methods.compression.pruning.random_weights import RandomWeightPruning
from methods.compression.pruning.semi_structured import SemiStructuredPruning, as_rows, from_rows, nm_mask
from methods.compression.pruning.slimming import NetworkSlimming, add_subgradient, slimmed_channels
from methods.compression.pruning.taylor import TaylorFilterPruning, taylor_scores
from methods.compression.pruning.weight_pruning import density_of
from methods.compression.training import Recipe, train, zero_masks
from tests.methods.compression.problems import NONE, ONE, context, dense, digits, dims, randomized


def test_exactly_the_smallest_weights_go():
    scores = torch.rand(20, 30)
    mask = smallest(scores, 301)
    assert int((~mask).sum()) == 301
    assert scores[~mask].max() < scores[mask].min()
    assert int((~smallest(torch.ones(10), 4)).sum()) == 4  # ties too


def test_masks_of_all_layers_share_a_threshold_and_masks_by_layer_a_share():
    scores = {"a": torch.rand(100), "b": 10 * torch.rand(100)}
    masks = global_masks(scores, 0.5)
    assert sum(int((~m).sum()) for m in masks.values()) == 100
    assert int((~masks["a"]).sum()) > 80
    assert [int((~m).sum()) for m in layer_masks(scores, {"a": 0.1, "b": 0.7}).values()] == [10, 70]


def test_schedules_end_at_the_final_share():
    for schedule in ("oneshot", "linear", "exponential", "agp"):
        shares = [sparsity_after(schedule, 0.9, r, 4) for r in range(1, 5)]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(0.9)
    assert sparsity_after("agp", 0.8, 1, 2) == pytest.approx(0.8 - 0.8 * 0.5**3)
    assert sparsity_after("exponential", 0.75, 1, 2) == pytest.approx(0.5)


def test_pruned_weights_stay_at_zero_in_training_with_momentum_and_weight_decay():
    network = MagnitudePruning(0.7, rounds=2, schedule="agp", recipe=Recipe(1, 0.05, weight_decay=0.01))(
        dense(), context()
    )
    masks = zero_masks(network)
    assert set(masks) == {"layers.3.weight"}  # the first and the last layer are left out
    assert int((~masks["layers.3.weight"]).sum()) == int(0.7 * network.layers[3].weight.numel())


def test_a_training_without_masks_moves_zeros():
    network = dense()
    network.layers[3].weight.data[0] = 0
    train(network, digits().train_dataloader(), ONE, keep_zeros=False)
    assert network.layers[3].weight[0].abs().max() > 0


def test_magnitude_beats_random_weights_without_training():
    kept = MagnitudePruning(0.5, recipe=NONE)(dense(), context())
    random = RandomWeightPruning(0.5, recipe=NONE)(dense(), context())
    assert density_of(kept) == density_of(random)
    assert context().test_accuracy(kept) > context().test_accuracy(random) + 0.05


def test_the_fisher_diagonal_is_the_mean_squared_gradient():
    network, batch = dense().eval(), next(iter(digits().train_dataloader()))
    batch = type(batch)(*(part[:4] for part in batch))
    found = fisher_diagonal(network, ["head"], batch)["head"]
    squares = []
    for x, y in zip(batch.x, batch.y, strict=True):
        loss = nn.functional.cross_entropy(network(x[None]), y[None])
        squares.append(torch.autograd.grad(loss, network.head.weight)[0].square())
    torch.testing.assert_close(found, torch.stack(squares).mean(0), rtol=1e-4, atol=1e-8)
    assert density_of(OptimalBrainDamage(images=20, sparsity=0.5, recipe=NONE)(dense(), context())) < 0.7


def test_lottery_levels_prune_a_fifth_of_what_is_left_and_rewind():
    network = dense()
    masks = {"layers.3.weight": torch.ones_like(network.layers[3].weight, dtype=torch.bool)}
    for level in (1, 2, 3):
        masks = next_masks(network, masks, 0.2)
        left = int(masks["layers.3.weight"].sum())
        assert left == round(1152 * lottery_density(level, 0.2, 1152))
    ticket = LotteryTicket(levels=2, ignore=["stem", "head"], recipe=NONE_BUT_REWIND)(dense(), context())
    fresh = context().fresh()
    kept = ticket.layers[3].weight != 0
    torch.testing.assert_close(ticket.layers[3].weight[kept], fresh.layers[3].weight[kept], atol=1e-6, rtol=0)


NONE_BUT_REWIND = Recipe(1, 1e-9, weight_decay=0.0)


def test_a_ticket_goes_back_to_early_weights_after_a_resumption_too(tmp_path):
    stage = LotteryTicket(1, rewind_epochs=1, recipe=Recipe(2, 0.05))
    whole = stage(dense(), context())
    stage(dense(), context(folder=tmp_path))
    (tmp_path / "training_2.pt").unlink()  # as if stopped after the first training
    again = stage(dense(), context(folder=tmp_path))
    for own, other in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("control", ["reinit", "shuffle"])
def test_controls_of_lottery_tickets_keep_the_density(control):
    ticket = LotteryTicket(1, control=control, recipe=NONE_BUT_REWIND)(dense(), context())
    assert density_of(ticket) == pytest.approx(0.8, abs=0.001)


def test_nm_masks_keep_the_n_largest_of_each_group():
    weight = torch.randn(6, 8, 3, 3)
    mask = from_rows(nm_mask(as_rows(weight).abs(), 2, 4), weight)
    groups = mask.reshape(6, 2, 4, 3, 3).sum(2)
    assert (groups == 2).all()
    kept = (weight.abs() * mask).sum()
    assert kept > weight.abs().sum() * 0.6
    assert torch.equal(from_rows(as_rows(weight), weight), weight)
    with pytest.raises(ValueError, match='"N:M"'):
        SemiStructuredPruning("4:2")
    with pytest.raises(ValueError, match="multiple of 4 input channels"):
        SemiStructuredPruning(recipe=ONE).check(ConvNet(widths=[3, 5], **dims(size=8)), None)


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    x, grey = torch.rand(3, 3, 16, 16), torch.rand(3, 1, 28, 28)
    return {
        "ResNet": (CifarResNet(depth=14, width=8, **dims(size=16)), x),
        "ResNet, option B": (ResNet(blocks=[1, 2], width=8, **dims(size=16)), x),
        "WideResNet": (WideResNet(depth=10, widen=1, **dims(size=16)), x),
        "MobileNetV2": (MobileNetV2(**dims(size=16)), x),
        "ConvNet": (ConvNet(widths=[8, 12, 16], **dims(size=16)), x),
        "VGG": (CompressionVGG(widths=[[8, 8], [12]], hidden=[10], **dims(size=16)), x),
        "flattened VGG": (CompressionVGG(widths=[[8], [6]], flatten=True, hidden=[10], **dims(size=16)), x),
        "MobileNetV1": (MobileNetV1(width=0.25, **dims(size=16)), x),
        "LeNet": (LeNet5Caffe(**dims(10, 1, 28)), grey),
    }


@pytest.mark.parametrize("name", networks())
def test_a_network_without_channels_computes_what_it_does_with_masked_ones(name):
    network, x = networks()[name]
    randomized(network)
    masked, removed = copy.deepcopy(network), copy.deepcopy(network)
    for own, other in zip(find_units(masked), find_units(removed), strict=True):
        kept = strongest(l1_scores(own), max(own.width // 2, 1))
        mask_channels(own, kept)
        with torch.no_grad():
            keep_channels(other, kept)
    expected = masked(x)
    torch.testing.assert_close(removed(x), expected, atol=1e-5, rtol=1e-4)
    assert (expected - network(x)).abs().max() > 1e-4
    assert count_macs(removed, x[:1]) < count_macs(network, x[:1])


@pytest.mark.parametrize("stage", [L1FilterPruning, RandomFilterPruning, TaylorFilterPruning])
def test_filters_go_at_equal_cost(stage):
    network = stage(ratio=0.5, recipe=ONE)(dense(), context())
    assert network.layers[0].weight.shape[0] == 4
    assert network.layers[3].weight.shape[:2] == (8, 4)
    if stage is not RandomFilterPruning:
        assert context().test_accuracy(network) > 0.2


@pytest.mark.parametrize(
    "make",
    [
        SqueezeNet,
        MobileNetV2Compact,
        ShuffleNetV1,
        ShuffleNetV2,
        lambda **d: CompressionVGG(widths=[[8], [8]], crelu=True, **d),
    ],
)
def test_networks_that_mix_channels_in_their_own_way_are_refused(make):
    with pytest.raises(ValueError, match="no channels to prune here"):
        L1FilterPruning().check(make(**dims()), None)


def test_a_small_dense_network_that_cannot_run_is_refused():
    network = CompressionVGG(widths=[[8], [8]], crelu=True, **digits().dims)
    with pytest.raises(ValueError, match="widths of CompressionVGG cannot be scaled"):
        SmallDense(2000, ONE).check(network, digits())


def test_random_filters_are_random_in_greedy_order_too():
    kept = [
        RandomFilterPruning(ratio=0.5, greedy=greedy, recipe=NONE)(dense(), context()).layers[0].weight
        for greedy in (False, True)
    ]
    by_norm = L1FilterPruning(ratio=0.5, recipe=NONE)(dense(), context()).layers[0].weight
    assert torch.equal(*kept)
    assert not torch.equal(kept[0], by_norm)


def test_a_sparsity_that_empties_a_layer_is_refused():
    network = dense()
    network.layers[3].weight.data.mul_(1e-6)
    with pytest.raises(ValueError, match=r"would empty layers\.3; choose a smaller sparsity"):
        MagnitudePruning(0.95, ignore=[], recipe=NONE)(network, context())
    with pytest.raises(ValueError, match=r"would empty .*; choose fewer levels"):
        LotteryTicket(40, 0.5, recipe=NONE_BUT_REWIND)(dense(), context())


def test_greedy_scores_leave_out_the_inputs_that_are_gone():
    network = randomized(ConvNet(widths=[4, 4, 4], **dims(size=16)))
    with torch.no_grad():
        network.layers[3].weight.zero_()
        network.layers[3].weight[:2, 3] = 10.0  # filters 0 and 1 live of an input that goes
        network.layers[3].weight[2:, 0] = 1.0
        network.layers[0].weight.copy_(torch.tensor([4.0, 3, 2, 1])[:, None, None, None].expand(4, 3, 3, 3))
    greedy, independent = copy.deepcopy(network), copy.deepcopy(network)
    with torch.no_grad():
        L1FilterPruning(ratio=0.5, greedy=True).remove(greedy)
        L1FilterPruning(ratio=0.5).remove(independent)
    assert greedy.layers[3].weight.abs().sum() > 0
    assert independent.layers[3].weight.abs().sum() == 0


def test_taylor_scores_are_the_change_of_the_loss_to_first_order():
    network, batch = dense().eval(), next(iter(digits().train_dataloader()))
    unit = find_units(network)[0]
    (score,) = taylor_scores(network, [unit], [type(batch)(*(part[:1] for part in batch))])
    outputs = {}
    handle = unit.norms[0].register_forward_hook(lambda m, i, o: outputs.update(o=o))
    loss = nn.functional.cross_entropy(network(batch.x[:1]), batch.y[:1])
    handle.remove()
    (gradient,) = torch.autograd.grad(loss, outputs["o"])
    expected = (gradient * outputs["o"]).mean((2, 3))[0].abs()
    torch.testing.assert_close(score, (expected / expected.norm()).detach())


def test_slimming_adds_the_subgradient_and_prunes_below_one_threshold():
    network = dense()
    network(torch.rand(2, 1, 8, 8)).sum().backward()
    norm = network.layers[1]
    norm.weight.data[0] *= -1
    before = norm.weight.grad.clone()
    add_subgradient(network, 0.01)
    torch.testing.assert_close(norm.weight.grad - before, 0.01 * norm.weight.detach().sign())
    kept = slimmed_channels([torch.tensor([0.1, 0.9, 0.8]), torch.tensor([0.2, 0.05, 0.01])], 0.5)
    assert [k.tolist() for k in kept] == [[1, 2], [0]]
    assert [k.tolist() for k in slimmed_channels([torch.tensor([0.9]), torch.tensor([0.1, 0.2])], 0.7)] == [[0], [1]]


def test_slimming_makes_a_smaller_network():
    network = NetworkSlimming(0.5, sparse_recipe=ONE, recipe=ONE)(dense(), context())
    assert network.layers[0].out_channels + network.layers[3].out_channels in (12, 13)  # of 24, at least 1 each
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ValueError, match="no batch normalisation"):
        NetworkSlimming().check(LeNet5Caffe(**dims(10, 1, 28)), None)


def test_slimming_tells_which_layers_its_threshold_empties(caplog):
    network = dense()
    nn.init.constant_(network.layers[1].weight, 0.1)
    nn.init.constant_(network.layers[4].weight, 0.9)
    slimmed = NetworkSlimming(1 / 3, sparse_recipe=NONE, recipe=NONE)(network, context())
    assert [slimmed.layers[0].out_channels, slimmed.layers[3].out_channels] == [1, 16]
    assert "leaves min_channels=1 in layers.0;" in caplog.text


def test_depgraph_reaches_its_target():
    pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    network = ResNet(blocks=[1, 1], width=16, **digits().dims)
    base = count_macs(network, context().example)
    pruned = DependencyGraphPruning(2.11, steps=40, recipe=NONE, bn_recal_batches=2)(network, context(network))
    assert base / count_macs(pruned, context().example) >= 2.11
    pruned.train()(torch.rand(2, 1, 8, 8)).sum().backward()


def test_depgraph_removes_what_torch_pruning_removes_by_hand():
    tp = pytest.importorskip("torch_pruning")
    network = randomized(ConvNet(widths=[8, 12], **dims(size=16)))
    ours, theirs, x = copy.deepcopy(network), copy.deepcopy(network), torch.rand(2, 3, 16, 16)
    unit = find_units(ours)[0]
    kept = strongest(l1_scores(unit), 5)
    with torch.no_grad():
        keep_channels(unit, kept)
    graph = tp.DependencyGraph().build_dependency(theirs, x)
    gone = [i for i in range(8) if i not in kept.tolist()]
    graph.get_pruning_group(theirs.layers[0], tp.prune_conv_out_channels, idxs=gone).prune()
    torch.testing.assert_close(ours(x), theirs.eval()(x))


def test_a_narrower_network_is_built_and_fits():
    small = scaled(CifarResNet(depth=8, width=16, **dims()), Fraction(1, 2))
    reinitialize(small, 0)
    expected = CifarResNet(depth=8, width=8, **dims())
    assert {n: p.shape for n, p in small.named_parameters()} == {n: p.shape for n, p in expected.named_parameters()}
    assert small(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    stage = SmallDense(4000, ONE)
    found = stage.widest(dense())
    assert 0 < found.layers[0].out_channels < 8
    with pytest.raises(ValueError, match="max_bytes=100"):
        SmallDense(100, ONE).check(dense(), None)


def test_scratch_trains_as_many_operations_and_keeps_zeros():
    pruned = L1FilterPruning(ratio=0.5, recipe=NONE)(dense(), context())
    ratio = count_macs(dense(), context().example) / count_macs(pruned, context().example)
    surroundings = context()
    Scratch("compute", Recipe(1, 0.05))(pruned, surroundings)
    assert surroundings.numbers["scratch_epochs"] == round(ratio)
    sparse = MagnitudePruning(0.5, recipe=NONE)(dense(), context())
    zeros = int((sparse.layers[3].weight == 0).sum())
    again = Scratch("epochs", ONE)(sparse, context())
    assert int((again.layers[3].weight == 0).sum()) == zeros


def test_the_sensitivity_scan_prunes_one_layer_at_a_time():
    network = ConvNet(widths=[4, 4, 4], **digits().dims)
    curves = sensitivity_scan(network, lambda net: float(sum(p.numel() for p in net.parameters())), [0.25, 0.5])
    assert list(curves) == ["layers.0", "layers.3", "layers.6"]
    assert curves["layers.3"][0.5] < curves["layers.3"][0.25] < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MagnitudePruning(1.0), "sparsity=1"),
        (lambda: MagnitudePruning(1.5), r"\[0, 1\]"),
        (lambda: MagnitudePruning(scope="none"), "scope=none"),
        (lambda: MagnitudePruning(densities={"nothing": 0.5}).check(dense(), None), "no layer nothing"),
        (lambda: MagnitudePruning(densities={"head": 0.0}).check(dense(), None), "empty the layer"),
        (lambda: MagnitudePruning(ignore=["stage*"]).check(dense(), None), "matches no layer"),
        (lambda: L1FilterPruning(ratio=0.9).check(dense(), None), "would empty a layer of 8"),
        (lambda: L1FilterPruning(ratio=1.0).check(dense(), None), "would empty"),
        (lambda: L1FilterPruning(preset="li2018/x"), "preset=li2018"),
        (lambda: NetworkSlimming(1.0), "empty every layer"),
        (lambda: LotteryTicket(fraction=1.0), "fraction"),
        (lambda: LotteryTicket(rewind_epochs=9, recipe=ONE), "rewind_epochs=9"),
        (lambda: DependencyGraphPruning(0.9), "target_speedup"),
        (lambda: DependencyGraphPruning().check(CifarResNet(**dims()), None), "option A"),
        (lambda: L1FilterPruning().check(nn.Sequential(nn.Linear(2, 2)), None), "no channels to prune"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_context_trains_from_where_it_was_stopped(tmp_path):
    def stop(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    options = {"every_seconds": 0.0, "checkpoint": tmp_path / "state.pt"}
    whole = train(dense(), digits().train_dataloader(), Recipe(3, 0.05))
    network = dense()
    with pytest.raises(KeyboardInterrupt):
        train(network, digits().train_dataloader(), Recipe(3, 0.05), before_epoch=stop, **options)
    resumed = train(dense(), digits().train_dataloader(), Recipe(3, 0.05), **options)
    for own, other in zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other)
    other = ConvNet(widths=[4, 4], **digits().dims)
    with pytest.raises(ValueError, match=r"state\.pt holds another training"):
        train(other, digits().train_dataloader(), Recipe(3, 0.05), **options)
