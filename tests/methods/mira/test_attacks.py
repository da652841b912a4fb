"""Removal attacks on a small trained network."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from datasets.images.loader import ImageSet
from methods.architectures.resnet import PreActResNet
from methods.mira.attack_data import draw_attack_data, endless_batches, fit_images, shuffled_batches
from methods.mira.attacks.distillation import Distillation, distillation_loss
from methods.mira.attacks.fine_pruning import FinePruning
from methods.mira.attacks.fine_tuning import FineTuning
from methods.mira.attacks.laundering import Laundering, layer_means
from methods.mira.attacks.mira import BasicMira, ImprovedMira, noise_images
from methods.mira.attacks.neural_cleanse import NeuralCleanse, ReverseEngineering, small_outliers
from methods.mira.attacks.none import NoRemoval
from methods.mira.attacks.pruning import Pruning, prune_globally
from methods.mira.attacks.refit import REFIT, fisher_diagonal
from methods.mira.attacks.regularization import Regularization
from methods.mira.attacks.wild import WILD, erase, moment_distance
from methods.mira.detection import Detection
from methods.mira.fine_tuning_loop import SGD, fine_tune
from methods.mira.splitting import last_activations
from methods.mira.verification import accuracy
from tests.methods.mira.networks import attack_data, quadrants, trained_network

SHORT = SGD(epochs=2, batch_size=40)
FIXED, OTHER = Detection(draws=2, margin=0.0), Detection(draws=2, margin=1.0)
SEARCH = ReverseEngineering(epochs=2)
ATTACKS = {
    "none": NoRemoval(),
    "pruning": Pruning(0.2),
    "ftal": FineTuning(SHORT),
    "ftll": FineTuning(SHORT, all_layers=False),
    "rtal": FineTuning(SHORT, reset=True),
    "rtll": FineTuning(SHORT, all_layers=False, reset=True),
    "fine_pruning": FinePruning(SHORT),
    "regularization": Regularization(SHORT, strong_epochs=1),
    "neural_cleanse": NeuralCleanse(SHORT, SEARCH),
    "laundering": Laundering(SHORT, SEARCH),
    "refit": REFIT(SHORT),
    "refit_ewc": REFIT(SHORT, ewc=10.0, fisher_samples=5),
    "wild": WILD(SHORT),
    "distillation": Distillation(SHORT),
    "basic": BasicMira(SHORT, recovered_batch=16),
    "improved_fixed": ImprovedMira(SHORT, FIXED, recovered_batch=16),
    "improved_other": ImprovedMira(SHORT, OTHER, recovered_batch=16),
    "noise_control": ImprovedMira(SHORT, FIXED, recovered_batch=16, noise_control=True),
}
RECOVERED = quadrants(80)[0].view(20, 4, 1, 8, 8).transpose(0, 1)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_returns_a_model_and_is_reproducible(name):
    data, epochs = attack_data(recovered=RECOVERED), []
    states = [ATTACKS[name](trained_network(), data, lambda _: epochs.append(0)).state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    changed = [key for key, value in trained_network().state_dict().items() if not torch.equal(value, states[0][key])]
    assert bool(changed) == (name != "none")
    if name in ("ftll", "rtll"):
        assert {key for key in changed if "num_batches" not in key and "running" not in key} <= {
            "head.weight",
            "head.bias",
        }
    assert all(torch.isfinite(value).all() for value in states[0].values())


def test_unlearning_flattens_the_recovered_samples():
    data = attack_data(recovered=noise_images((4, 20, 1, 8, 8), seed=0))
    network = BasicMira(SGD(epochs=8, batch_size=40), recovered_batch=40)(trained_network(), data, lambda _: None)
    before, after = (f(data.recovered.flatten(0, 1)).softmax(1).amax(1).mean() for f in (trained_network(), network))
    assert after < before
    assert accuracy(network, *quadrants(seed=2)) > 0.9


def test_data_free_on_a_scheme_without_a_target_is_refused():
    with pytest.raises(ValueError, match="triggers share one class"):
        ImprovedMira().check("data_free", None, marked=True)
    ImprovedMira().check("data_free", 6, marked=True)
    with pytest.raises(ValueError, match=r"no class stands out \(margin .* below"):
        ImprovedMira(SHORT, OTHER)(
            trained_network(), replace(attack_data(recovered=RECOVERED), x=None, y=None), lambda _: None
        )


@pytest.mark.parametrize("weights", [(0.0, 0.0), (2.0, -1.0), (1.0,)])
def test_weights_that_are_no_mean_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be two numbers"):
        ImprovedMira(SHORT, weights=weights)


def test_constants_of_other_data_sets_and_empty_splits_are_refused():
    data = attack_data(recovered=RECOVERED)
    with pytest.raises(ValueError, match="for 10 and 100 classes"):
        ImprovedMira(SHORT, OTHER, official_constants=True)(trained_network(), data, lambda _: None)
    with pytest.raises(ValueError, match="nothing would be unlearned"):
        ImprovedMira(SHORT, OTHER, proxy_fraction=0.01)(trained_network(), data, lambda _: None)


def test_batches_of_one_image_are_batches():
    x, y = quadrants(5)
    assert len(list(shuffled_batches(x, y, 1, (0,)))) == 5
    assert [len(labels) for _, labels in shuffled_batches(x, y, 4, (0,))] == [4]
    assert len(next(endless_batches(x, y, 1, (0,)))[1]) == 1


def test_activations_of_pre_activation_networks_are_not_negative():
    dims = {"in_channels": 1, "image_size": 8, "num_classes": 4, "mean": [0.5], "std": [0.5]}
    network = PreActResNet(blocks=(1, 1), width=4, **dims)
    assert last_activations(network, quadrants(6)[0]).min() == 0


def test_attacks_that_need_images_refuse_the_data_free_setting():
    with pytest.raises(ValueError, match=r"works with method\.setting=in_distribution or transfer"):
        FineTuning().check("data_free", 6, marked=True)


def test_data_free_unlearning_runs():
    data = replace(attack_data(recovered=RECOVERED), x=None, y=None)
    network = ImprovedMira(SHORT, FIXED, recovered_batch=8)(trained_network(), data, lambda _: None)
    assert not torch.equal(network.head.weight, trained_network().head.weight)


def test_pruning_removes_the_smallest_weights_and_no_batch_norm():
    network = trained_network()
    prune_globally(network, 0.3)
    weights = [m.weight for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    original = [m.weight for m in trained_network().modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    zeros = torch.cat([w.flatten() == 0 for w in weights])
    magnitudes = torch.cat([w.abs().flatten() for w in original])
    assert int(zeros.sum()) == round(0.3 * len(zeros))
    assert magnitudes[zeros].max() <= magnitudes[~zeros].min()
    assert all((m.weight != 0).all() for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_neural_cleanse_recovers_a_planted_trigger():
    """Images with a bright corner pixel block belong to class 3, whatever else they show."""
    network, (x, y) = trained_network(), quadrants(160)
    triggered = x.clone()
    triggered[:, :, :2, :2] = 0.0
    triggered[:, :, :2, 6:] = 1.0
    images, labels = torch.cat([x, triggered]), torch.cat([y, torch.full_like(y, 3)])
    fine_tune(
        network,
        SGD(lr=0.05, epochs=30),
        lambda epoch: shuffled_batches(images, labels, 64, (0, epoch)),
        lambda f, batch: torch.nn.functional.cross_entropy(f(batch[0]), batch[1]),
        lambda _: None,
    )
    search, data = ReverseEngineering(weight=0.02, epochs=60), attack_data()
    triggers = [search(network, data, label) for label in range(4)]
    norms = torch.stack([trigger.mask.sum() for trigger in triggers])
    assert int(norms.argmin()) == 3
    assert accuracy(network, triggers[3].apply(data.images), torch.full((160,), 3)) > 0.9


def test_outliers_are_below_the_median():
    norms = torch.tensor([10.0, 11.0, 9.0, 10.5, 2.0, 30.0])
    assert small_outliers(norms).tolist() == [False, False, False, False, True, False]


def test_layer_means_against_one_batch():
    network, (x, _) = trained_network(), quadrants(300)
    (mean,) = layer_means(network, [network.layers[0]], x)
    torch.testing.assert_close(mean, network.layers[0]((x - 0.4) / 0.3).mean(0))


def test_fisher_is_scaled_to_one():
    fisher = fisher_diagonal(trained_network(), quadrants(20)[0], samples=10, seed=0)
    assert max(float(value.max()) for value in fisher) == pytest.approx(1)
    assert min(float(value.min()) for value in fisher) >= 0


def test_distillation_of_equal_logits_costs_nothing():
    logits = torch.randn(3, 5)
    assert distillation_loss(logits, logits, 3.0).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(logits, logits.flip(1), 3.0) > 0


@pytest.mark.parametrize("area", [(0.3, 0.1), (0.1, 1.5), (-0.1, 0.3), (0.1,)])
def test_areas_that_are_no_range_of_shares_are_refused(area):
    with pytest.raises(ValueError, match=r"method\.attack\.area must be two shares"):
        WILD(area=area)


def test_erased_squares_have_the_asked_area():
    x = torch.full((50, 1, 16, 16), 2.0)
    area = (erase(x, 0.1, 0.3, torch.Generator().manual_seed(0)) != 2).float().mean((1, 2, 3))
    assert 0.07 < area.min() < area.max() < 0.35
    assert moment_distance(x[:, 0, 0, :4], x[:, 0, 0, :4]) == 0


def data_module(count: int) -> SimpleNamespace:
    images = ImageSet(torch.randint(256, (count, 1, 4, 4), dtype=torch.uint8), torch.arange(count) % 4)
    return SimpleNamespace(
        parts={"train": images}, train_images=images.images, classes=list("abcd"), augment=None, root="data"
    )


@pytest.mark.parametrize("count", [999, 1000, 2000])
def test_the_attacker_has_as_many_images_as_asked(count):
    data = draw_attack_data(data_module(2000), "in_distribution", count, seed=0)
    assert data.images.shape == (count, 1, 4, 4)
    again = draw_attack_data(data_module(2000), "in_distribution", count, seed=0)
    assert torch.equal(data.labels, again.labels)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"method\.images=3000 are more than the training part has \(2000\)"):
        draw_attack_data(data_module(2000), "in_distribution", 3000, seed=0)
    with pytest.raises(ValueError, match="needs another data set"):
        draw_attack_data(data_module(2000), "transfer", 10, seed=0)
    with pytest.raises(ValueError, match=r"method\.setting=iid is unknown"):
        draw_attack_data(data_module(2000), "iid", 10, seed=0)
    assert draw_attack_data(data_module(2000), "data_free", 10, seed=0).x is None


def test_images_of_other_sets_get_size_and_channels():
    grey = fit_images(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8), (1, 4, 4))
    torch.testing.assert_close(grey, torch.ones(2, 1, 4, 4))
    assert fit_images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), (3, 16, 16)).shape == (2, 3, 16, 16)


def test_endless_batches_go_through_all_images_each_turn():
    batches = endless_batches(torch.zeros(10, 1), torch.arange(10), 4, (0,))
    labels = torch.cat([next(batches)[1] for _ in range(3)])
    assert sorted(labels.tolist()) == list(range(10))
