"""Runs on checkpoints in the transformers layout: damaged, quantised or incomplete ones are refused before pruning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from methods.esparse.export import COMPRESSED
from methods.esparse.shards import Shards
from scripts.random_llama import byte_tokenizer

SIZES = ["dataset.window=16", "dataset.limit=2", "dataset.calibration.samples=2", "dataset.calibration.length=16"]
STREAM = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "in memory"])
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(autouse=True)
def no_figures(monkeypatch) -> None:
    """Drawing takes longer than these runs do."""
    monkeypatch.setattr("runner.execution.figures.save_figures", lambda *_: [])


def save(folder: Path, intermediate: int = 24, vocabulary: int = 258, **settings) -> Path:
    """A random LLaMA of two blocks with a tokenizer of single bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    LlamaForCausalLM(config).save_pretrained(folder, **settings)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def run(call, tmp_path):
    """run(*overrides) -> exit code and output of pruning the model in tmp_path/model."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Sentence number {i} of the text." for i in range(40)))

    def run(*overrides: str, method: str = "esparse/wanda") -> tuple[int, str]:
        return call(
            f"method={method}",
            *("model=llama7b", f"model.path={tmp_path}/model", "model.dtype=float32"),
            *("dataset=topics", f"dataset.evaluate={text}", f"dataset.calibration.source={text}", *SIZES),
            *("logger=csv", "threads=1", f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs"),
            *overrides,
        )

    return run


def assert_refused(result: tuple[int, str], tmp_path: Path, *expected: str) -> None:
    code, printed = result
    assert code == 2, printed
    assert "Traceback" not in printed
    assert all(words in printed for words in expected), printed
    assert not list(tmp_path.rglob("result.json"))
    assert not list(tmp_path.rglob("model-block-*"))  # nothing was pruned


def load_shards(folder: Path) -> dict[str, torch.Tensor]:
    shards = Shards(folder)
    return shards.read({name: name for name in shards.files})


def change_config(folder: Path, **settings) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def change_tensors(folder: Path, change) -> None:
    """change(tensors): edits the dictionary of the model's single file."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@STREAM
@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_a_quantised_checkpoint_is_refused(run, tmp_path, stream, method):
    save(tmp_path / "model")
    change_config(tmp_path / "model", quantization_config={"quant_method": method, "bits": 4})
    assert_refused(run(f"method.stream={stream}"), tmp_path, f"is quantised ({method})", "model.path=<folder>")


@STREAM
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int64, torch.float8_e4m3fn])
def test_quantised_weights_without_a_quantisation_config_are_refused(run, tmp_path, stream, dtype):
    def quantise(tensors):
        tensors[DOWN] = (100 * tensors[DOWN]).to(dtype)

    save(tmp_path / "model")
    change_tensors(tmp_path / "model", quantise)
    assert_refused(run(f"method.stream={stream}"), tmp_path, "is quantised", DOWN)


@pytest.mark.parametrize(("dtype", "zipped"), [(torch.int8, True), (torch.float8_e5m2, True), (torch.int8, False)])
def test_quantised_weights_in_files_of_torch_are_refused(run, tmp_path, dtype, zipped):
    path = save(tmp_path / "model") / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    tensors[DOWN] = (100 * tensors[DOWN]).to(dtype)
    torch.save(tensors, path.with_name("pytorch_model.bin"), _use_new_zipfile_serialization=zipped)
    assert_refused(run(), tmp_path, "is quantised", DOWN, str(dtype).removeprefix("torch."))


def test_plain_files_of_torch_are_pruned(run, tmp_path):
    path = save(tmp_path / "model") / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    code, printed = run("method.eval_dense=false")
    assert code == 0, printed


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"num_attention_heads": "four"}, "expected int, got str"),
        ({"hidden_size": 15}, "not a multiple of the number of attention heads"),
        ({"hidden_act": "nope"}, "one with this config.json could not be made (KeyError: 'nope')"),
    ],
    ids=str,
)
def test_a_config_with_wrong_values_is_one_message(run, tmp_path, settings, expected):
    change_config(save(tmp_path / "model"), **settings)
    assert_refused(run(), tmp_path, expected, "config.json")


@pytest.mark.parametrize("text", ["{}", "[]", '{"version": "1.0", "model": {"type": "XYZ"}}'])
def test_a_tokenizer_that_is_none_is_one_message(run, tmp_path, text):
    (save(tmp_path / "model") / "tokenizer.json").write_text(text)
    assert_refused(run(), tmp_path, "could not be read", "tokenizer.json")


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-true", "64-true"])
@pytest.mark.parametrize("method", ["esparse/dense", "esparse/compare"])
def test_a_precision_beside_the_models_dtype_is_refused(run, tmp_path, method, precision):
    save(tmp_path / "model")
    result = run(f"trainer.precision={precision}", method=method)
    assert_refused(result, tmp_path, f"trainer.precision={precision}", "set model.dtype")


def test_blocks_that_the_config_does_not_count_are_said(run, tmp_path):
    def add_block(tensors):
        tensors.update({n.replace(".1.", ".2."): t.clone() for n, t in tensors.items() if "layers.1." in n})
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as older files have it

    save(tmp_path / "model")
    change_tensors(tmp_path / "model", add_block)
    code, printed = run("method.stream=true", "method.eval_dense=false")
    assert code == 0, printed
    (written,) = tmp_path.rglob("run.log")
    assert "9 tensors of blocks or experts that its config.json does not count (model.layers.2." in written.read_text()


@STREAM
def test_missing_weights_are_found_before_pruning(run, tmp_path, stream):
    save(tmp_path / "model")
    change_tensors(tmp_path / "model", lambda tensors: tensors.pop(DOWN))
    assert_refused(run(f"method.stream={stream}"), tmp_path, "lack", DOWN)


def test_weights_that_only_the_index_names_are_found_before_pruning(run, tmp_path):
    folder = save(tmp_path / "model", max_shard_size="4KB")
    file = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][DOWN]
    tensors = load_file(folder / file)
    del tensors[DOWN]
    save_file(tensors, folder / file, metadata={"format": "pt"})
    assert_refused(run("method.stream=true"), tmp_path, "lacks 1 tensor(s)", DOWN)


def test_tensors_of_another_shape_are_found_before_pruning(run, tmp_path):
    save(tmp_path / "model")
    change_config(tmp_path / "model", intermediate_size=28)
    assert_refused(run("method.stream=true"), tmp_path, "config.json asks for [28, 16]")


@STREAM
@pytest.mark.parametrize("size", [3, 1000, -100])
def test_a_truncated_file_is_named(run, tmp_path, stream, size):
    path = save(tmp_path / "model") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    expected = [f"{path} is damaged"] if stream else ["could not be read"]
    assert_refused(run(f"method.stream={stream}"), tmp_path, *expected)


def test_a_damaged_index_is_named(run, tmp_path):
    path = save(tmp_path / "model", max_shard_size="4KB") / "model.safetensors.index.json"
    path.write_text(path.read_text()[:-50])
    assert_refused(run("method.stream=true"), tmp_path, f"{path} is damaged")


@STREAM
def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(run, tmp_path, stream):
    save(tmp_path / "model", vocabulary=64)
    assert_refused(run(f"method.stream={stream}"), tmp_path, "gives token id", "only 64 embeddings")


def test_zero_shot_texts_are_checked_for_tokens_without_embedding_too(run, tmp_path):
    folder = save(tmp_path / "model", vocabulary=150)  # enough for ASCII, not for other bytes
    assert folder.exists()
    path = tmp_path / "data" / "text" / "zeroshot" / "openbook_qa.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"query": "caf\u00e9 \u0142", "choices": ["a", "b"], "gold": 0}) + "\n")
    assert_refused(run("dataset.zeroshot=[openbookqa]"), tmp_path, "gives token id", "only 150 embeddings")


@pytest.mark.parametrize("method", ["esparse/wanda", "esparse/magnitude"])
def test_weights_that_are_nan_are_said_to_be_nan(run, tmp_path, method):
    def damage(tensors):
        tensors[DOWN][3, 2] = float("nan")

    save(tmp_path / "model")
    change_tensors(tmp_path / "model", damage)
    result = run(method=method)
    assert_refused(result, tmp_path, DOWN, "NaN")
    assert "bfloat16" not in result[1]


def test_streamed_weights_that_are_nan_are_said_to_be_nan(run, tmp_path):
    def damage(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")

    save(tmp_path / "model")
    change_tensors(tmp_path / "model", damage)
    result = run("method.stream=true", "method.eval_dense=false")
    assert_refused(result, tmp_path, "model.layers.0.mlp.up_proj.weight has weights that are NaN")
    assert "bfloat16" not in result[1]


def test_weights_too_large_for_float16_advise_another_dtype(run, tmp_path):
    def enlarge(tensors):
        tensors[DOWN][3, 2] = 1e6

    save(tmp_path / "model")
    change_tensors(tmp_path / "model", enlarge)
    assert_refused(run("model.dtype=float16"), tmp_path, DOWN, "infinite in float16", "model.dtype=bfloat16 or float32")


def test_an_export_with_a_remainder_is_written(run, tmp_path):
    save(tmp_path / "model", intermediate=26)
    code, printed = run("method.allow_remainder=true", f"method.export={tmp_path}/out", method="esparse")
    assert code == 0, printed
    compressed = load_file(tmp_path / "out" / COMPRESSED)
    names = {name.rpartition(".")[0] for name in compressed}
    assert "model.layers.0.mlp.up_proj" in names
    assert "model.layers.0.mlp.down_proj" not in names  # 26 columns are no multiple of 4
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    zeros = (loaded.model.layers[0].mlp.down_proj.weight == 0).sum(1)
    assert (zeros == 12).all()  # two of each of six groups, the last two columns stay


def test_sparse_kernels_with_a_remainder_are_refused_before_pruning(run, tmp_path):
    save(tmp_path / "model", intermediate=26)
    result = run("method.allow_remainder=true", "method.sparse_backend=cutlass", method="esparse")
    assert_refused(result, tmp_path, "26 columns", "method.sparse_backend")


@pytest.mark.parametrize(("method", "said"), [("esparse", True), ("esparse/wanda", False)])
def test_a_streamed_model_says_that_its_permutations_are_lost(run, tmp_path, method, said):
    save(tmp_path / "model")
    code, printed = run("method.stream=true", "method.eval_dense=false", method=method)
    assert code == 0, printed
    (written,) = tmp_path.rglob("run.log")
    assert (
        "without its channel permutations, in whose order alone it has the pattern 2:4" in written.read_text()
    ) == said


def test_a_streamed_model_run_again_by_magnitude_keeps_its_zeros(run, tmp_path):
    save(tmp_path / "model")
    run("method.stream=true", f"method.export={tmp_path}/out")
    result = run("method.stream=true", "method.sparse_backend=cutlass")
    assert (result[0], "method=esparse/magnitude model.path=" in result[1]) == (2, True)
    again = ["method.eval_dense=false", f"model.path={tmp_path}/out", f"method.export={tmp_path}/again"]
    code, printed = run(*again, method="esparse/magnitude")
    assert code == 0, printed
    first, second = (load_shards(tmp_path / folder) for folder in ("out", "again"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@STREAM
def test_an_export_keeps_the_config(run, tmp_path, stream):
    save(tmp_path / "model")
    code, printed = run(f"method.stream={stream}", f"method.export={tmp_path}/out")
    assert code == 0, printed
    before, after = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("model", "out"))
    assert before["use_cache"] is True
    assert after == before
