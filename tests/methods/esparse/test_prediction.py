"""Perplexity and continuation of texts, against the definition and against transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from methods.esparse.prediction import continue_tokens, mean_cross_entropy, predict_texts


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        eos_token_id=39,
        bos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@torch.inference_mode()
def test_cross_entropy_is_the_mean_over_windows(model) -> None:
    ids = torch.randint(3, 39, (23,))
    losses = []
    for start in (0, 8, 16):
        window = ids[start : start + 8]
        log_p = model(input_ids=window[None]).logits[0].log_softmax(1)
        losses += [-float(log_p[i, window[i + 1]]) for i in range(len(window) - 1)]
    assert mean_cross_entropy(model, ids, 8) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@torch.inference_mode()
def test_the_continuation_is_that_of_transformers(model) -> None:
    ids = torch.randint(3, 39, (6,))
    expected = model.generate(
        ids[None], attention_mask=torch.ones(1, 6), max_new_tokens=10, do_sample=False, pad_token_id=0
    )
    wanted = [int(t) for t in expected[0, 6:] if int(t) != 39]
    assert continue_tokens(model, ids, 10, 32) == wanted


@torch.inference_mode()
def test_files(model, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("dog")

    def encode(text: str) -> list[int]:
        return [ord(c) - 94 for c in text]

    def decode(tokens: list[int]) -> str:
        return "".join(chr(t + 94) for t in tokens)

    out = tmp_path / "out"
    out.mkdir()
    files = predict_texts(model, encode, decode, [tmp_path / "a.txt"], out, window=16, tokens=4)
    assert [path.name for path in files] == ["perplexity.csv", "a.continued.txt"]
    assert files[1].read_text() == "dog" + decode(continue_tokens(model, torch.tensor(encode("dog")), 4, 16))
    assert ",3," in files[0].read_text()
    for name, text in (("x", "cat"), ("y", "ape")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.txt").write_text(text)
    _, *both = predict_texts(model, encode, decode, [tmp_path / "x", tmp_path / "y"], out, window=16, tokens=4)
    assert [path.name for path in both] == ["x_same.continued.txt", "y_same.continued.txt"]
    assert [path.read_text()[:3] for path in both] == ["cat", "ape"]
    (tmp_path / "b.txt").write_text("d")
    for given, tokens in ((tmp_path / "b.txt", 0), (tmp_path / "a.txt", 16)):
        with pytest.raises(ValueError, match="tokens"):
            predict_texts(model, encode, decode, [given], out, window=16, tokens=tokens)
