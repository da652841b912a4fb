"""Pair products by one batched product, against gathering the vectors of each pair."""

from __future__ import annotations

import pytest
import torch

from methods.optfeature.pairs import flat_pair_indices, pair_count, pair_indices, pair_products


def gathered(vectors, core):
    first, second = pair_indices(vectors.shape[1])
    return (core * vectors[:, first] * vectors[:, second]).sum(-1)


@pytest.mark.parametrize("fields", [2, 3, 7])
def test_pairs_are_row_major(fields):
    pairs = [(i, j) for i in range(fields) for j in range(i + 1, fields)]
    assert pair_indices(fields).T.tolist() == [list(pair) for pair in pairs]
    assert flat_pair_indices(fields).tolist() == [i * fields + j for i, j in pairs]
    assert pair_count(fields) == len(pairs)


def test_values_and_gradients_equal_those_of_the_gathered_form():
    torch.manual_seed(0)
    values = [torch.randn(5, 6, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    weights = torch.randn(5, 15, dtype=torch.float64)
    results = []
    for function in (lambda v, c: pair_products(v, flat_pair_indices(6), c), gathered):
        vectors, core = (value.clone().requires_grad_() for value in values)
        products = function(vectors, core)
        (products.sin() * weights).sum().backward()
        results.append((products.detach(), vectors.grad, core.grad))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference)


def test_gradients_by_finite_differences():
    vectors = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    core = torch.randn(3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda v, c: pair_products(v, flat_pair_indices(4), c), (vectors, core))


def test_inner_products_without_a_core_and_without_gradients():
    vectors = torch.randn(3, 4, 2)
    products = pair_products(vectors.requires_grad_(), flat_pair_indices(4))
    with torch.no_grad():
        torch.testing.assert_close(pair_products(vectors, flat_pair_indices(4)), products.detach())
    torch.testing.assert_close(products, gathered(vectors, torch.ones(2)))


@pytest.mark.parametrize("forward", [False, True])
def test_gradients_have_the_precision_of_the_forward_pass(forward):
    """Whether autocast is on where the backward pass runs does not matter."""
    torch.manual_seed(0)
    values, core, weights = torch.randn(5, 6, 4), torch.randn(4), torch.randn(5, 15)
    results = []
    for backward in (False, True):
        vectors = values.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=forward):
            loss = (pair_products(vectors, flat_pair_indices(6), core) * weights).sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=backward):
            loss.backward()
        results.append(vectors.grad)
    assert torch.equal(*results)
