import numpy as np
import pytest
import scipy.linalg
import torch

from methods.esvae.metrics import Moments, frechet_distance, inception_score, kernel_distance, moments


def features(seed, n=200, d=16, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(9))
    return torch.randn(n, d, generator=generator) @ mixing + shift


@pytest.mark.parametrize("n", [200, 10])  # 10: covariances without full rank
def test_frechet_distance_is_that_of_scipys_matrix_root(n):
    one, other = moments(features(0, n)), moments(features(1, n, shift=0.5))
    root = scipy.linalg.sqrtm(one.covariance.astype(complex) @ other.covariance)
    expected = ((one.mean - other.mean) ** 2).sum() + np.trace(one.covariance + other.covariance - 2 * root.real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6 if n == 200 else 1e-3)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)


def test_frechet_distance_of_one_dimension_is_the_formula():
    one, other = Moments(np.array([1.0]), np.array([[4.0]])), Moments(np.array([3.0]), np.array([[9.0]]))
    assert frechet_distance(one, other) == pytest.approx(4 + (2 - 3) ** 2)


def test_frechet_distance_of_the_same_moments_vanishes():
    assert abs(frechet_distance(moments(features(0)), moments(features(0)))) < 1e-9


def test_moments_need_finite_features():
    with pytest.raises(ValueError, match="not finite"):
        moments(torch.full((4, 2), torch.nan))
    with pytest.raises(ValueError, match="at least 2"):
        moments(torch.zeros(1, 2))


def test_inception_score_has_its_known_limits():
    certain, uniform = torch.eye(10).repeat(5, 1), torch.full((50, 10), 0.1)
    assert inception_score([certain])[0] == pytest.approx(10)
    assert inception_score([uniform])[0] == pytest.approx(1)
    mean, std = inception_score([certain, uniform])
    assert (mean, std) == pytest.approx((5.5, 4.5))


def test_inception_score_is_that_of_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    logits = torch.randn(60, 10, generator=torch.Generator().manual_seed(0))
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.features = [logits]
    assert inception_score([logits.softmax(1)])[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_kernel_distance_is_that_of_torchmetrics():
    from torchmetrics.image.kid import poly_mmd

    one, other = features(0, 50).double(), features(1, 50, shift=0.3).double()
    assert kernel_distance(one, other) == pytest.approx(float(poly_mmd(one, other)), rel=1e-9)


def test_kernel_distance_is_that_of_a_loop_over_pairs():
    one, other = features(0, 6, 3), features(1, 5, 3)

    def k(a, b):
        return float((a.double() @ b.double() / 3 + 1) ** 3)

    def within(x):
        pairs = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
        return sum(pairs) / len(pairs)

    between = np.mean([k(a, b) for a in one for b in other])
    assert kernel_distance(one, other) == pytest.approx(within(one) + within(other) - 2 * between, rel=1e-9)
