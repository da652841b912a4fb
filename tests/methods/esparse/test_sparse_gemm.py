"""Memory and products of the LLaMA family, from their shapes."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from transformers import LlamaConfig, LlamaForCausalLM

from methods.esparse.compression import compress, compressed_bytes
from methods.esparse.llama_shapes import LlamaShapes
from methods.esparse.sparse_gemm import SparseGEMM, launch_milliseconds, random_2to4, time_product, usable_backends
from runner.config.compose import compose


@pytest.mark.parametrize("name", ["7b", "13b", "30b", "65b"])
def test_all_weights_are_counted_as_transformers_has_them(name):
    shapes = instantiate(compose(["method=esparse/memory", f"model=llama{name}_shapes"]).model)
    d, d_ff, blocks = shapes.hidden_size, shapes.intermediate_size, shapes.num_layers
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=d,
        intermediate_size=d_ff,
        num_hidden_layers=blocks,
        num_attention_heads=d // 128,
        num_key_value_heads=d // 128,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert shapes.dense_weights + shapes.pruned_weights == sum(p.numel() for p in model.parameters())
    assert shapes.dense_bytes(2) == 2 * sum(p.numel() for p in model.parameters())


def test_compressed_bytes_are_those_of_compressed_matrices():
    shapes = LlamaShapes(64, 176, 3)
    matrices = 0
    for rows, columns in shapes.products.values():
        parts = compress(random_2to4(rows, columns, torch.float16, torch.device("cpu")))
        matrices += compressed_bytes(parts)
    assert shapes.compressed_bytes(2) == 2 * shapes.dense_weights + shapes.num_layers * matrices


def test_memory_is_a_run(call, tmp_path):
    code, printed = call("method=esparse/memory", "model=llama13b_shapes", "logger=csv", f"paths.outputs={tmp_path}")
    assert code == 0, printed
    assert "test/saved " in printed
    assert "0.4265" in printed  # the dossier's 42.6 % for 13B


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_products_ask_for_a_gpu(call, tmp_path):
    code, printed = call("method=esparse/sparse_gemm", "trainer=cpu", "logger=csv", f"paths.outputs={tmp_path}")
    assert code == 2
    assert "needs a GPU with 2:4 tensor cores" in printed


def test_unknown_backends_and_types_are_refused():
    shapes = LlamaShapes(64, 176, 1)
    with pytest.raises(ValueError, match=r"method.backends has the unknown cublas; choose from cutlass, cusparselt"):
        SparseGEMM(shapes, backends=["cublas"])
    with pytest.raises(ValueError, match=r"method.dtype=int8 is unknown; choose from float16, bfloat16"):
        SparseGEMM(shapes, dtype="int8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_products_agree_on_a_gpu():
    device = torch.device("cuda")
    weight = random_2to4(256, 512, torch.float16, device)
    backends = usable_backends(["cutlass", "cusparselt"], torch.float16, device)
    dense, kernels = time_product(weight, 64, backends, launch_milliseconds, 0.01)
    assert dense > 0
    assert kernels
    assert all(kernel.error < 0.02 for kernel in kernels.values())


def test_speed_metrics_and_figure_follow_from_what_was_timed():
    module = SparseGEMM(LlamaShapes(64, 176, 1))
    module.dense = {("qkv", 1): 2.0, ("qkv", 8): 3.0, ("down", 1): 1.0}
    module.speedups = {
        ("qkv", 1): {"cutlass": 0.5, "searched": 1.5},
        ("qkv", 8): {"cutlass": 1.0, "searched": 1.2},
        ("down", 1): {"cutlass": 0.8},
    }
    logged: dict[str, float] = {}
    module.log_dict = lambda values: logged.update({name: float(value) for name, value in values.items()})
    module.on_test_epoch_end()
    assert logged["test/qkv_8_ms"] == 3.0
    assert logged["test/down_1_cutlass_speedup"] == 0.8
    assert logged["test/cutlass_speedup"] == 0.8
    assert logged["test/searched_speedup"] == logged["test/speedup"] == pytest.approx(1.35)
    (axes,) = module.figures()["speedup"].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["qkv"] == [[1.0, 1.5], [8.0, 1.2]]
    assert lines["down"] == [[1.0, 0.8]]
