"""Spectra and losses against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from methods.calibrationphys.losses import (
    SIMILARITIES,
    chance_level,
    contrast_phys,
    info_nce,
    negative_pearson,
    sinc_losses,
    triplet_psd,
)
from methods.calibrationphys.spectrum import (
    irrelevant_amplitude_ratio,
    irrelevant_power_ratio,
    norm_psd,
)

BAND = (0.66, 3.0)


def sine(rates: list[float], fs: float = 30.0, count: int = 300) -> torch.Tensor:
    t = torch.arange(count, dtype=torch.float64) / fs
    return torch.stack([torch.sin(2 * math.pi * rate * t + k) for k, rate in enumerate(rates)])


def test_psd_is_a_distribution_and_ignores_shift_scale_and_sign():
    torch.manual_seed(0)
    wave = torch.randn(3, 300, dtype=torch.float64)
    psd = norm_psd(wave, 30.0, BAND)
    torch.testing.assert_close(psd.sum(-1), torch.ones(3, dtype=torch.float64))
    for other in (5 * wave, wave + 7, -wave, wave.roll(40, -1)):
        torch.testing.assert_close(norm_psd(other, 30.0, BAND), psd)


def test_psd_is_that_of_numpy():
    wave = np.random.default_rng(0).normal(size=250)
    power = np.abs(np.fft.rfft(wave - wave.mean())) ** 2
    frequencies = np.fft.rfftfreq(250, 1 / 25)
    keep = (frequencies >= 0.7) & (frequencies <= 3.0)
    found = norm_psd(torch.from_numpy(wave), 25.0, (0.7, 3.0))
    np.testing.assert_allclose(found, power[keep] / power[keep].sum())


def test_psd_keeps_the_bins_at_the_ends_of_the_band():
    """750 samples at 15 Hz: bins 5 to 25 of 0.02 Hz lie in 0.1 to 0.5 Hz."""
    assert norm_psd(torch.randn(750), 15.0, (0.1, 0.5)).shape == (21,)


def test_a_clip_too_short_for_the_band_is_refused():
    with pytest.raises(ValueError, match=r"dataset\.clip_length"):
        norm_psd(torch.randn(30), 15.0, (0.1, 0.5))


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("negatives", ["cross", "cross+intra"])
@pytest.mark.parametrize("positive", [True, False])
def test_loss_at_chance(name, negatives, positive):
    """Spectra that are all equal: log(2B - 1) with the positive in the denominator and negatives of both cameras."""
    psd = norm_psd(sine([1.0]).expand(8, -1), 30.0, BAND)
    loss = info_nce(psd, psd, 0.1, SIMILARITIES[name], negatives, positive)
    assert float(loss) == pytest.approx(chance_level(8, negatives, positive), abs=1e-6)
    if negatives == "cross+intra" and positive:
        assert float(loss) == pytest.approx(math.log(15), abs=1e-6)


def test_loss_of_distinct_peaks_at_the_default_temperature():
    """16 one-hot spectra of 24 bins at temperature 0.1: 2.642, where chance is 3.434."""
    psd = torch.eye(24, dtype=torch.float64)[:16]
    assert float(info_nce(psd, psd)) == pytest.approx(2.642, abs=5e-4)
    assert chance_level(16) == pytest.approx(3.434, abs=5e-4)


def brute_force(a, b, tau, negatives, positive):
    """The formula of the paper, term by term, both cameras as the anchor."""
    count, losses = len(a), []

    def s(x, y):
        return -((x - y) ** 2).mean()

    for anchors, others in ((a, b), (b, a)):
        for i in range(count):
            up = math.exp(s(anchors[i], others[i]) / tau)
            down = sum(math.exp(s(anchors[i], others[j]) / tau) for j in range(count) if positive or j != i)
            if negatives == "cross+intra":
                down += sum(math.exp(s(anchors[i], anchors[j]) / tau) for j in range(count) if j != i)
            losses.append(-math.log(up / down))
    return np.mean(losses)


@pytest.mark.parametrize("negatives", ["cross", "cross+intra"])
@pytest.mark.parametrize("positive", [True, False])
def test_info_nce_is_its_formula(negatives, positive):
    torch.manual_seed(0)
    a, b = torch.rand(5, 12, dtype=torch.float64), torch.rand(5, 12, dtype=torch.float64)
    expected = brute_force(a.numpy(), b.numpy(), 0.05, negatives, positive)
    found = info_nce(a, b, 0.05, negatives=negatives, positive_in_denominator=positive)
    assert float(found) == pytest.approx(expected)


def test_info_nce_is_symmetric_and_reaches_both_cameras():
    torch.manual_seed(0)
    a, b = (torch.rand(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = info_nce(a, b)
    torch.testing.assert_close(loss, info_nce(b, a))
    loss.backward()
    assert a.grad.abs().sum() > 0
    assert b.grad.abs().sum() > 0
    torch.autograd.gradcheck(info_nce, (a, b))


def test_info_nce_needs_two_sessions():
    with pytest.raises(ValueError, match="at least two sessions"):
        info_nce(torch.rand(1, 4), torch.rand(1, 4))


def test_ipr_is_the_share_outside_the_band():
    assert float(irrelevant_power_ratio(sine([1.5]), 30.0, BAND)) < 1e-6
    assert float(irrelevant_power_ratio(sine([5.0]), 30.0, BAND)) > 1 - 1e-6
    both = sine([1.5]) + sine([5.0])
    assert float(irrelevant_power_ratio(both, 30.0, BAND)) == pytest.approx(0.5, abs=0.02)


def test_ipr_in_amplitude_counts_noise_and_mean_for_more():
    torch.manual_seed(0)
    noisy = sine([1.5]) + 0.2 * torch.randn(1, 300, dtype=torch.float64)
    assert irrelevant_amplitude_ratio(noisy, 30.0, BAND) > 5 * irrelevant_power_ratio(noisy, 30.0, BAND)
    assert irrelevant_amplitude_ratio(noisy + 10, 30.0, BAND) > irrelevant_amplitude_ratio(noisy, 30.0, BAND)


def test_negative_pearson_is_numpys():
    torch.manual_seed(0)
    x, y = torch.randn(4, 50, dtype=torch.float64), torch.randn(4, 50, dtype=torch.float64)
    expected = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(x.numpy(), y.numpy(), strict=True)])
    assert float(negative_pearson(x, y)) == pytest.approx(expected)
    assert float(negative_pearson(x, 3 * x + 1)) == pytest.approx(0)


def test_contrast_phys_is_its_formula():
    torch.manual_seed(0)
    spectra = torch.rand(3, 4, 5, dtype=torch.float64)
    flat = [(v, spectra[v, s]) for v in range(3) for s in range(4)]
    within, between = [], []
    for i, (v, x) in enumerate(flat):
        for j, (w, y) in enumerate(flat):
            if i != j:
                (within if v == w else between).append(float(((x - y) ** 2).mean()))
    assert float(contrast_phys(spectra)) == pytest.approx(np.mean(within) - np.mean(between))


def test_triplet_is_the_mean_over_all_pairs_of_views():
    torch.manual_seed(0)
    a, p, n = (torch.rand(2, 3, 5, dtype=torch.float64) for _ in range(3))
    total = 0.0
    for i in range(2):
        for j in range(2):
            total += float(((a[i] - p[j]) ** 2).mean(-1).mean() - ((a[i] - n[j]) ** 2).mean(-1).mean())
    assert float(triplet_psd(a, p, n)) == pytest.approx(total / 4)


def test_sinc_prefers_one_peak_in_the_band_and_variety_over_the_batch():
    ones = torch.ones(6, dtype=torch.float64)
    args = (30.0, 0.66 * ones, 3.0 * ones)
    varied, equal = sine([0.8, 1.1, 1.5, 1.9, 2.3, 2.7]), sine([1.2]).expand(6, -1)
    good, same = sinc_losses(varied, *args), sinc_losses(equal, *args)
    assert float(good["bandwidth"]) < 0.05
    assert float(good["sparsity"]) < 0.1
    assert good["variance"] < 0.2 * same["variance"]
    noise = sinc_losses(torch.randn(6, 300, dtype=torch.float64), *args)
    assert noise["bandwidth"] > 0.5
    assert noise["sparsity"] > 0.5


def test_sinc_follows_the_speed_of_a_clip():
    """A wave of 3.3 Hz lies outside 0.66 to 3 Hz, and inside once the clip is known to be 1.2 times as fast."""
    ones = torch.ones(1, dtype=torch.float64)
    wave = sine([3.3])
    assert sinc_losses(wave, 30.0, 0.66 * ones, 3.0 * ones)["bandwidth"] > 0.9
    assert sinc_losses(wave, 30.0, 0.66 * 1.2 * ones, 3.0 * 1.2 * ones)["bandwidth"] < 0.1
