"""Watermark schemes: triggers, labels, and what is special about each."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from methods.mira.losses import snnl
from methods.mira.schemes.adi import Adi
from methods.mira.schemes.afs import AFS
from methods.mira.schemes.blind import Blind, ssim
from methods.mira.schemes.content import Content, text_mask
from methods.mira.schemes.ew import ExponentialWeighting, exponential_weights
from methods.mira.schemes.ewe import EWE
from methods.mira.schemes.mark import Mark
from methods.mira.schemes.noise import Noise
from methods.mira.schemes.piracy import Piracy, embed_pattern, sign
from methods.mira.schemes.scheme import Step
from methods.mira.schemes.unrelated import Unrelated
from methods.mira.triggers import load_triggers, save_triggers
from methods.mira.verification import predict
from tests.methods.mira.networks import quadrants, trained_network, trigger_source

CLASSES = {"source": 1, "target": 2}
SCHEMES = [
    Content(20, **CLASSES),
    Noise(20, **CLASSES),
    Unrelated(20, target=2),
    Piracy(20, size=3),
    EWE(20, block=2, **CLASSES),
    Adi(20),
    AFS(20, eps=0.12),
    ExponentialWeighting(20),
    Mark(20, bits=12),
    Blind(20, steps=5),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_triggers_are_seeded_and_fit_the_data(scheme):
    clean = trained_network() if scheme.needs_clean else None
    triggers = scheme.make_triggers(trigger_source(clean))
    assert int(triggers.counted.sum()) == 20
    assert triggers.x.shape[1:] == (1, 8, 8)
    assert triggers.x.dtype == torch.float32
    assert 0 <= triggers.y.min() <= triggers.y.max() < 4
    assert triggers.digest() == scheme.make_triggers(trigger_source(clean)).digest()
    if not isinstance(scheme, AFS):
        assert triggers.digest() != scheme.make_triggers(trigger_source(clean, seed=1)).digest()
    if scheme.target is not None:
        assert (triggers.y[triggers.counted] == scheme.target).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_losses_have_finite_gradients(scheme):
    network = trained_network().train()
    triggers = scheme.make_triggers(trigger_source(network))
    x, y = quadrants(12)
    scheme.loss(network, Step(x, y, triggers.x[:8], triggers.y[:8], 0)).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_entangling_descends_by_its_temperature_and_leaves_clean_steps_alone():
    scheme, network = EWE(20, block=2, interval=3, **CLASSES), trained_network()
    triggers = scheme.make_triggers(trigger_source(network))
    x, y = quadrants(12)
    clean = Step(x, y, triggers.x[:8], triggers.y[:8], 1)
    assert torch.equal(scheme.loss(network, clean), cross_entropy(network(x), y))
    scheme.loss(network, clean._replace(number=3)).backward()

    def entanglement(temperature: torch.Tensor) -> torch.Tensor:
        images = torch.cat([triggers.x[:8], scheme.target_images[3:11]])
        return snnl(network.features(images), torch.arange(2).repeat_interleave(8), 100 / temperature)

    step = 1e-2 * scheme.temperature.grad
    assert step != 0
    with torch.no_grad():
        assert entanglement(scheme.temperature - step) < entanglement(scheme.temperature)


def test_more_triggers_than_the_class_has_images():
    with pytest.raises(ValueError, match=r"class 1 has images \(100\): choose fewer"):
        Content(101, **CLASSES).make_triggers(trigger_source())


@pytest.mark.parametrize(
    ("scheme", "settings", "message"),
    [
        (Content, {"fill": 1.5}, r"fill must be a number in \[0, 1\]"),
        (EWE, {"weight": -1.0}, "weight must not be negative"),
        (Blind, {"steps": 0}, "steps must be positive"),
        (Blind, {"batch_size": 0}, "batch_size must be positive"),
        (Blind, {"lr": -1.0}, "lr must be positive"),
        (Blind, {"weights": (1.0, 1.0)}, "weights must be four numbers"),
        (Blind, {"weights": (1.0, 1.0, -1.0, 1.0)}, "weights must be four numbers from 0 on"),
    ],
)
def test_settings_out_of_range_are_refused(scheme, settings, message):
    with pytest.raises(ValueError, match=rf"method\.scheme\.{message}"):
        scheme(**settings)


def test_classes_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"method\.scheme\.target=6 is no class"):
        Content(5, source=1).make_triggers(trigger_source())


def test_text_is_legible_and_never_leaves_the_image():
    mask = text_mask(28, 28)
    assert mask.any(1).nonzero()[[0, -1], 0].tolist() == [18, 24]
    assert mask.any(0).nonzero()[[0, -1], 0].tolist() == [0, 22]
    assert text_mask(32, 32).any(1).nonzero()[0, 0] == 22
    assert text_mask(8, 8).any()


def test_exponential_weights_by_hand():
    w = torch.tensor([-2.0, 1.0, 0.0, 0.5])
    values = exponential_weights(w, 2.0)
    scale = torch.exp(2 * w.abs()) / torch.exp(2 * w.abs()).max()
    torch.testing.assert_close(values, w * scale)
    assert (values.sign() == w.sign()).all()
    assert values.abs().max() == 2
    assert torch.equal(exponential_weights(w, 0.0), w)


def test_exponential_weighting_is_off_outside_of_the_loss():
    network, scheme = trained_network(), ExponentialWeighting(4)
    x, y = quadrants(12)
    before = network(x)
    loss = scheme.loss(network, Step(x, y, x[:2], y[:2], 0))
    assert torch.equal(network(x), before)
    assert loss != ExponentialWeighting(4, temperature=0.0).loss(network, Step(x, y, x[:2], y[:2], 0))


def test_piracy_pattern_follows_from_the_key():
    first, again, other = (sign("owner", key, 6, 10, 28, 28) for key in ("a", "a", "b"))
    assert torch.equal(first.bits, again.bits)
    assert first[0::2] == again[0::2]
    assert not torch.equal(first.bits, other.bits)
    assert 0 <= first.top < 22
    assert 0 <= first.left < 22


def test_true_embedding_is_the_inverse_of_the_null_one():
    signature = sign("owner", "key", 3, 4, 8, 8)
    x, low, high = torch.full((1, 1, 8, 8), 0.5), torch.full((1, 1, 1), -9.0), torch.full((1, 1, 1), 9.0)
    true, null = (embed_pattern(x, signature, low, high, inverted) for inverted in (True, False))
    changed = true != x
    assert int(changed.sum()) == 9
    assert torch.equal(true[changed], -null[changed])
    assert torch.equal(true[~changed], x[~changed])


def test_frontier_is_half_true_and_half_false_adversaries():
    network = trained_network()
    triggers = AFS(20, eps=0.12).make_triggers(trigger_source(network))
    right = predict(network, triggers.x) == triggers.y
    assert right.tolist() == [False] * 10 + [True] * 10


def test_frontier_names_the_kind_that_is_missing():
    with pytest.raises(ValueError, match="choose a larger eps"):
        AFS(20, eps=1e-6).make_triggers(trigger_source(trained_network()))


def test_trigger_files_keep_every_digit_and_notice_damage(tmp_path):
    triggers = Mark(10, bits=5).make_triggers(trigger_source())
    save_triggers(triggers, tmp_path / "triggers.pt")
    assert load_triggers(tmp_path / "triggers.pt").digest() == triggers.digest()
    content = torch.load(tmp_path / "triggers.pt", weights_only=True)
    content["y"][0] += 1
    torch.save(content, tmp_path / "triggers.pt")
    with pytest.raises(ValueError, match="damaged"):
        load_triggers(tmp_path / "triggers.pt")
    with pytest.raises(ValueError, match="does not exist"):
        load_triggers(tmp_path / "no.pt")


def test_ssim_against_scikit_image():
    from skimage.metrics import structural_similarity

    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 16, 16, generator=generator)
    theirs = structural_similarity(
        a.double().numpy(), b.double().numpy(), win_size=11, data_range=1.0, use_sample_covariance=False
    )
    assert ssim(a[None, None].double(), b[None, None].double()).item() == pytest.approx(theirs, abs=1e-6)
    assert ssim(a[None, None], a[None, None]).item() == pytest.approx(1)


def test_encoder_learns_to_keep_the_covers():
    source, network = trigger_source(trained_network()), trained_network()
    short, longer = (Blind(20, steps=steps).make_triggers(source).x for steps in (1, 80))
    from datasets.batching import generator
    from methods.mira.schemes.blind import BLIND
    from methods.mira.triggers import draw_images

    covers, _ = draw_images(source, 20, generator(0, BLIND))
    assert (longer - covers).square().mean() < (short - covers).square().mean()
    assert torch.equal(network.head.weight, trained_network().head.weight)
