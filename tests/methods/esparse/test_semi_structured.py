"""Sparse inference: what is refused, what stays dense and why, and equal outputs where it runs.

Without a GPU torch's kernels are replaced by dense products of what they were given; torch's own conversion, dispatch
and padding around them stay.
"""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from torch.sparse._semi_structured_conversions import sparse_semi_structured_to_dense_cutlass

from methods.esparse import semi_structured as module
from methods.esparse.patterns import NM
from methods.esparse.semi_structured import (
    DTYPES,
    MULTIPLES,
    TENSORS,
    SparseLinear,
    find_linear,
    obstacle,
    relative_error,
    search_algorithm,
    semi_structured,
    sparsify,
)

BACKENDS = list(TENSORS)
ROWS, COLUMNS = 96, 64
ALGORITHM = 7


def masked_linear(bias: bool = True, shuffled: bool = False, seed: int = 0, rows: int = ROWS, columns: int = COLUMNS):
    """A float16 layer with random 2:4 weights, and its permutation."""
    torch.manual_seed(seed)
    layer = nn.Linear(columns, rows, bias=bias).half().requires_grad_(False)
    permutation = torch.randperm(columns) if shuffled else torch.arange(columns)
    mask = NM(2, 4).mask(torch.rand(rows, columns))
    layer.weight[:, permutation] = layer.weight[:, permutation] * mask
    return layer, permutation if shuffled else None


def masked_model(**kwargs) -> tuple[nn.Sequential, dict[str, torch.Tensor]]:
    """Two layers, the second permuted."""
    first, _ = masked_linear(rows=COLUMNS, **kwargs)
    second, permutation = masked_linear(shuffled=True, seed=1, **kwargs)
    return nn.Sequential(first, nn.ReLU(), second), {"2": permutation}


@pytest.fixture
def emulated(monkeypatch) -> list[tuple]:
    """Sparse products on the CPU; returns the shapes, algorithms and searches that cuSPARSELt was called with."""
    calls: list[tuple] = []

    def cutlass(packed, meta, dense):
        return sparse_semi_structured_to_dense_cutlass(packed, meta) @ dense

    def cusparselt(packed, dense, bias=None, transpose_result=False, alg_id=0):
        calls.append(("product", tuple(dense.shape), alg_id))
        product = packed @ dense if bias is None else packed @ dense + bias[:, None]
        return product.t().contiguous() if transpose_result else product

    def search(packed, dense, bias=None, transpose_result=False):
        assert transpose_result, "torch's linear layer wants the transposed product"
        calls.append(("search", tuple(dense.shape), bias is not None))
        return ALGORITHM

    monkeypatch.setattr(module, "machine_obstacle", lambda device, backend: None)
    for tensor in TENSORS.values():
        monkeypatch.setattr(tensor, "_validate_device_dim_dtype_shape", lambda weight: None)
    monkeypatch.setattr(torch, "_sparse_semi_structured_mm", cutlass)
    monkeypatch.setattr(
        torch,
        "_sparse_semi_structured_addmm",
        lambda bias, packed, meta, dense: cutlass(packed, meta, dense) + bias[:, None],
    )
    monkeypatch.setattr(torch, "_cslt_compress", lambda weight: weight.clone())
    monkeypatch.setattr(torch, "_cslt_sparse_mm", cusparselt)
    monkeypatch.setattr(torch, "_cslt_sparse_mm_search", search)
    return calls


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_shape_table_is_torch_s(backend):
    for dtype in DTYPES:
        constraints = TENSORS[backend]._DTYPE_SHAPE_CONSTRAINTS[dtype]
        assert MULTIPLES[backend] == (constraints.sparse_min_rows, constraints.sparse_min_cols)


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_the_cpu_layers_stay_and_one_message_says_so(backend, caplog):
    model, permutations = masked_model()
    x = torch.randn(5, COLUMNS).half()
    expected, layers = model(x), list(model)
    with caplog.at_level(logging.INFO, logger=module.__name__):
        assert sparsify(model, ["0", "2"], permutations, backend) == []
    assert all(now is before for now, before in zip(model, layers, strict=True))
    assert torch.equal(model(x), expected)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 2 linear layers stay dense, their weights masked: 2 because the weights are on cpu, not on a CUDA device"
    ]


@pytest.mark.parametrize("shape", [(3, COLUMNS), (2, 3, COLUMNS), (COLUMNS,), (16, COLUMNS)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_converted_layers_give_the_masked_dense_outputs(backend, bias, shape, emulated, caplog):
    model, permutations = masked_model(bias=bias)
    x = torch.randn(shape).half()
    expected = model(x)
    assert sparsify(model, ["0", "2"], permutations, backend, tokens=16) == ["0", "2"]
    assert not caplog.records
    assert type(model[0].weight) is type(model[2].weight) is TENSORS[backend]
    torch.testing.assert_close(model(x), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_need_not_be_contiguous(backend, emulated):
    model, permutations = masked_model()
    x = torch.randn(COLUMNS, 6, 2).half().permute(2, 1, 0)
    expected = model(x)
    sparsify(model, ["0", "2"], permutations, backend, tokens=8)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_semi_structured_weight_holds_the_masked_weight(backend, emulated):
    weight = masked_linear()[0].weight
    sparse = semi_structured(weight, backend)
    dense = (
        sparse_semi_structured_to_dense_cutlass(sparse.packed, sparse.meta) if backend == "cutlass" else sparse.packed
    )
    assert torch.equal(dense, weight)


def test_gathering_is_exact():
    layer, permutation = masked_linear(shuffled=True)
    x = torch.randint(-8, 8, (4, COLUMNS)).half()
    layer.weight.copy_((layer.weight * 64).round().clamp(-8, 8))
    gathered = SparseLinear(layer.weight[:, permutation].clone(), layer.bias, permutation)
    assert torch.equal(gathered(x), layer(x))
    assert "gathered=True" in repr(gathered)


def test_cusparselt_s_algorithm_is_searched_once_a_shape_and_used(emulated):
    layers = [masked_linear(seed=seed, bias=seed < 3)[0] for seed in range(4)]
    model = nn.ModuleList(layers)
    sparsify(model, ["0", "1", "2", "3"], backend="cusparselt", tokens=13)
    searches = [call for call in emulated if call[0] == "search"]
    assert searches == [("search", (COLUMNS, 16), True), ("search", (COLUMNS, 16), False)]
    assert {call[2] for call in emulated if call[0] == "product"} == {ALGORITHM}
    emulated.clear()
    model[0](torch.randn(3, COLUMNS).half())
    assert emulated == [("product", (COLUMNS, 8), ALGORITHM)]


def test_the_search_leaves_the_generator_alone(emulated):
    weight = masked_linear()[0].weight
    before = torch.random.get_rng_state()
    assert search_algorithm(weight, None, 8) == ALGORITHM
    assert torch.equal(torch.random.get_rng_state(), before)


def test_layers_that_do_not_fit_stay_with_their_reasons(emulated, caplog):
    model = nn.ModuleList(
        [
            masked_linear()[0],
            masked_linear(rows=24)[0],
            masked_linear(rows=40)[0],
            masked_linear()[0].float(),
            masked_linear(columns=32)[0],
        ]
    )
    assert sparsify(model, map(str, range(5)), backend="cutlass", tokens=8) == ["0"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("4 of 5 linear layers stay dense")
    assert "1 because a weight of shape (24, 64) is not a multiple of (32, 64)" in message
    assert "1 because a weight of shape (96, 32) is not a multiple of (32, 64)" in message
    assert "1 because float32 weights are not supported" in message


@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes(backend, emulated):
    rows, columns = MULTIPLES[backend]
    assert obstacle(torch.empty(rows, columns, dtype=torch.float16), backend) is None
    assert obstacle(torch.empty(3 * rows, 5 * columns, dtype=torch.bfloat16), backend) is None
    for shape in [(rows // 2, columns), (rows, columns // 2), (rows + 8, columns), (rows, columns + 8)]:
        assert "is not a multiple" in obstacle(torch.empty(shape, dtype=torch.float16), backend)


def test_a_kernel_that_refuses_leaves_the_layer_dense(emulated, monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("mad_op : Supported only on GPUs with compute capability 8.x\nException raised from ...")

    monkeypatch.setattr(torch, "_sparse_semi_structured_addmm", refuse)
    model, permutations = masked_model()
    assert sparsify(model, ["0", "2"], permutations, "cutlass", tokens=8) == []
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("2 because torch says: mad_op : Supported only on GPUs with compute capability 8.x")


def test_a_wrong_product_leaves_the_layer_dense(emulated, monkeypatch, caplog):
    monkeypatch.setattr(torch, "_cslt_compress", lambda weight: weight * (torch.rand(weight.shape) > 0.01))
    model, permutations = masked_model()
    assert sparsify(model, ["0", "2"], permutations, "cusparselt", tokens=8) == []
    assert "the outputs of cusparselt are not those of the masked dense layer" in caplog.text


def test_running_out_of_memory_is_no_lack_of_support(emulated, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "_cslt_compress", full)
    model, permutations = masked_model()
    with pytest.raises(torch.OutOfMemoryError):
        sparsify(model, ["0", "2"], permutations)


def test_weights_that_are_not_2to4_are_refused_before_anything_is_replaced(emulated):
    model, permutations = masked_model()
    with pytest.raises(ValueError, match="2 is not 2:4: row"):
        sparsify(model, ["0", "2"])
    with pytest.raises(ValueError, match="0 is not 2:4: row"):
        sparsify(model, ["0", "2"], permutations | {"0": permutations["2"]})
    assert isinstance(model[0], nn.Linear)


def test_unknown_names_are_refused():
    model, permutations = masked_model()
    with pytest.raises(ValueError, match="no linear layer 1"):
        sparsify(model, ["0", "1"])
    with pytest.raises(ValueError, match=r"no linear layer head\.proj"):
        find_linear(model, "head.proj")
    with pytest.raises(ValueError, match="not converted: 2"):
        sparsify(model, ["0"], permutations)
    with pytest.raises(ValueError, match="backend=triton is unknown; choose from cutlass, cusparselt"):
        sparsify(model, ["0"], backend="triton")


def test_relative_error():
    expected = torch.tensor([1.0, -4.0]).half()
    assert relative_error(expected, expected) == 0
    assert relative_error(expected + 1, expected) == 0.25
    assert relative_error(expected, expected * 0) == float("inf")
    assert relative_error(expected * 0, expected * 0) == 0
    assert not relative_error(expected * float("nan"), expected) <= 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tokens", [1, 7, 64, 257])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu(backend, dtype, bias, tokens, caplog):
    model = nn.Sequential()
    permutations = {}
    for i, (rows, columns) in enumerate([(256, 128), (128, 256), (384, 128)]):
        layer, permutation = masked_linear(bias, shuffled=i > 0, seed=i, rows=rows, columns=columns)
        model.append(layer.to("cuda", dtype))
        permutations |= {str(i): permutation} if i else {}
    x = torch.randn(2, tokens, 128, device="cuda", dtype=dtype)
    with torch.inference_mode():
        expected = model(x)
        converted = sparsify(model, ["0", "1", "2"], permutations, backend, tokens=64)
        if not converted:
            assert "3 of 3 linear layers stay dense" in caplog.text
            pytest.skip(caplog.records[-1].getMessage())
        assert converted == ["0", "1", "2"]
        assert relative_error(model(x), expected) < 0.03


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", BACKENDS)
def test_on_a_gpu_the_weight_holds_the_masked_weight(backend):
    weight = masked_linear(rows=128, columns=128)[0].weight.cuda()
    if reason := obstacle(weight, backend):
        pytest.skip(reason)
    sparse = semi_structured(weight, backend)
    try:
        product = linear(torch.eye(128, device="cuda", dtype=weight.dtype), sparse)
    except RuntimeError as error:
        pytest.skip(str(error))
    assert torch.equal(product.t(), weight)
