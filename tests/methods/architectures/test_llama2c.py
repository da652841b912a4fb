"""llama2.c checkpoints and tokenizer, against a plain forward pass in llama2.c's own layout and its merging loop."""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.architectures.llama2c import Llama2cModel, Llama2cTokenizer

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, LONGEST = 12, 20, 2, 3, 1, 270, 24
HEAD = DIM // HEADS


def checkpoint(seed: int = 0, tied: bool = True) -> dict[str, np.ndarray]:
    """Random weights by llama2.c's names, in the order of its files."""
    draw = np.random.default_rng(seed)
    shapes = {
        "embedding": (VOCABULARY, DIM),
        "rms_att": (LAYERS, DIM),
        "wq": (LAYERS, DIM, DIM),
        "wk": (LAYERS, KV_HEADS * HEAD, DIM),
        "wv": (LAYERS, KV_HEADS * HEAD, DIM),
        "wo": (LAYERS, DIM, DIM),
        "rms_ffn": (LAYERS, DIM),
        "w1": (LAYERS, HIDDEN, DIM),
        "w2": (LAYERS, DIM, HIDDEN),
        "w3": (LAYERS, HIDDEN, DIM),
        "rms_final": (DIM,),
        "freq_real": (LONGEST, HEAD // 2),
        "freq_imag": (LONGEST, HEAD // 2),
    }
    if not tied:
        shapes["classifier"] = (VOCABULARY, DIM)
    return {name: draw.normal(scale=0.4, size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_checkpoint(path: Path, weights: dict[str, np.ndarray]) -> None:
    vocabulary = -VOCABULARY if "classifier" in weights else VOCABULARY
    header = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocabulary, LONGEST)
    path.write_bytes(header + b"".join(array.tobytes() for array in weights.values()))


def pieces_of(merges: list[bytes], letters: str = "abcé ") -> list[tuple[float, bytes]]:
    """A vocabulary: three special tokens, 256 bytes, letters, merges of falling score."""
    special = [b"<unk>", b"\n<s>\n", b"\n</s>\n"]
    found = [(0.0, piece) for piece in special + [b"<0x%02X>" % byte for byte in range(256)]]
    found += [(-1000.0, letter.encode()) for letter in letters]
    return found + [(-float(i), piece) for i, piece in enumerate(merges)]


def write_vocabulary(path: Path, pieces: list[tuple[float, bytes]]) -> None:
    entries = [struct.pack("<fi", score, len(piece)) + piece for score, piece in pieces]
    path.write_bytes(struct.pack("<i", max(len(piece) for _, piece in pieces)) + b"".join(entries))


def write_model(folder: Path, tied: bool = True) -> dict[str, np.ndarray]:
    weights = checkpoint(tied=tied)
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / "model.bin", weights)
    pieces = pieces_of([b" a", b"ab", b" ab"])
    write_vocabulary(folder / "vocabulary.bin", pieces + [(-9.0, b"x%d" % i) for i in range(VOCABULARY - len(pieces))])
    return weights


def read(folder: Path, **settings) -> Llama2cModel:
    return Llama2cModel(str(folder), file="model.bin", vocabulary="vocabulary.bin", **settings)


def forward(weights: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """run.c's forward pass, position by position, in float64: (L, V) logits. Neighbours are rotated as pairs."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}

    def norm(x, gain):
        return x / np.sqrt((x**2).mean() + 1e-5) * gain

    def rotate(x, position):
        x = x.copy()
        for i in range(0, len(x), 2):
            angle = position / 10000 ** ((i % HEAD) / HEAD)
            a, b = x[i], x[i + 1]
            x[i], x[i + 1] = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        return x

    keys, values = [[] for _ in range(LAYERS)], [[] for _ in range(LAYERS)]
    logits = []
    for position, token in enumerate(tokens):
        x = w["embedding"][token].copy()
        for layer in range(LAYERS):
            h = norm(x, w["rms_att"][layer])
            q = rotate(w["wq"][layer] @ h, position)
            keys[layer].append(rotate(w["wk"][layer] @ h, position))
            values[layer].append(w["wv"][layer] @ h)
            heads = []
            for head in range(HEADS):
                own = slice(head * HEAD, (head + 1) * HEAD)
                shared = slice(head // (HEADS // KV_HEADS) * HEAD, (head // (HEADS // KV_HEADS) + 1) * HEAD)
                scores = np.array([q[own] @ k[shared] for k in keys[layer]]) / np.sqrt(HEAD)
                share = np.exp(scores - scores.max())
                share /= share.sum()
                heads.append(sum(s * v[shared] for s, v in zip(share, values[layer], strict=True)))
            x = x + w["wo"][layer] @ np.concatenate(heads)
            h = norm(x, w["rms_ffn"][layer])
            gate = w["w1"][layer] @ h
            x = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (w["w3"][layer] @ h))
        logits.append(w.get("classifier", w["embedding"]) @ norm(x, w["rms_final"]))
    return np.array(logits)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_llama2cs_forward_pass(tmp_path, tied):
    weights = write_model(tmp_path, tied)
    tokens = [1, 5, 260, 7, 7, 261, 3, 200]
    with torch.no_grad():
        found = read(tmp_path).load()(torch.tensor([tokens])).logits[0]
    np.testing.assert_allclose(found, forward(weights, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_transformers_model_written_in_that_layout_reads_back(tmp_path, tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=DIM,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=LONGEST,
        rms_norm_eps=1e-5,
        initializer_range=0.4,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).eval()
    state = {name: value.numpy() for name, value in model.state_dict().items()}

    def layers(name: str) -> np.ndarray:
        return np.stack([state[f"model.layers.{i}.{name}.weight"] for i in range(LAYERS)])

    def pairs(array: np.ndarray) -> np.ndarray:
        """Row 2i of a head is its row i, row 2i + 1 its row i + half."""
        half = HEAD // 2
        order = [head + i // 2 + (i % 2) * half for head in range(0, array.shape[1], HEAD) for i in range(HEAD)]
        return array[:, order]

    weights = write_model(tmp_path, tied)
    weights |= {
        "embedding": state["model.embed_tokens.weight"],
        "rms_att": layers("input_layernorm"),
        "wq": pairs(layers("self_attn.q_proj")),
        "wk": pairs(layers("self_attn.k_proj")),
        "wv": layers("self_attn.v_proj"),
        "wo": layers("self_attn.o_proj"),
        "rms_ffn": layers("post_attention_layernorm"),
        "w1": layers("mlp.gate_proj"),
        "w2": layers("mlp.down_proj"),
        "w3": layers("mlp.up_proj"),
        "rms_final": state["model.norm.weight"],
    }
    if not tied:
        weights["classifier"] = state["lm_head.weight"]
    write_checkpoint(tmp_path / "model.bin", weights)
    loaded = read(tmp_path).load()
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    tokens = torch.randint(VOCABULARY, (2, LONGEST))
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)
    for name, value in loaded.state_dict().items():
        assert np.array_equal(value, state[name]), name


def test_config_and_dtype(tmp_path):
    write_model(tmp_path / "text" / "tiny")
    model = Llama2cModel(
        "tiny", file="model.bin", vocabulary="vocabulary.bin", root=tmp_path, dtype="bfloat16"
    )  # below the data folder's `text`
    assert (model.config.model_type, model.config.hidden_size, model.longest) == ("llama", DIM, LONGEST)
    assert model.folder is None
    assert {p.dtype for p in model.load().parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("size", [-1, -4, -1000, 4, 400])
def test_a_checkpoint_of_another_size_than_its_header_says_is_refused(tmp_path, size):
    write_model(tmp_path)
    path = tmp_path / "model.bin"
    content = path.read_bytes()
    path.write_bytes(content[:size] if size < 0 else content + bytes(size))
    with pytest.raises(ValueError, match=rf"{path}.* weights; its header asks for"):
        read(tmp_path).load()


@pytest.mark.parametrize("size", [0, 10, 27])
def test_a_checkpoint_without_a_whole_header_is_refused_by_name(tmp_path, size):
    write_model(tmp_path)
    path = tmp_path / "model.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=str(path)):
        read(tmp_path).load()


@pytest.mark.parametrize("size", [2, 500, -20, -1])
def test_a_vocabulary_that_ends_too_early_is_refused_by_name(tmp_path, size):
    write_model(tmp_path)
    path = tmp_path / "vocabulary.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{path} holds \d+ tokens, the model has {VOCABULARY}"):
        read(tmp_path)


def test_missing_files_are_said_with_their_places(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        Llama2cModel("tiny", file="model.bin", vocabulary="vocabulary.bin", root=tmp_path)
    for part in ("model.bin", "vocabulary.bin", f"{tmp_path}/text/tiny", f"{tmp_path}/tiny", "RUNNER_DATA"):
        assert part in str(error.value)
    write_model(tmp_path / "tiny")
    (tmp_path / "tiny" / "vocabulary.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"vocabulary\.bin"):
        Llama2cModel("tiny", file="model.bin", vocabulary="vocabulary.bin", root=tmp_path)


def encode_by_hand(pieces: list[tuple[float, bytes]], text: str) -> list[int]:
    """run.c's encode: characters, then ever again the best of all merges of neighbours, the first of equals."""
    numbers = {piece: i for i, (_, piece) in enumerate(pieces)}
    tokens = []
    for character in " " + text if text else "":
        raw = character.encode()
        tokens += [numbers[raw]] if raw in numbers else [byte + 3 for byte in raw]
    while True:
        best, where = -1e10, None
        for i in range(len(tokens) - 1):
            joined = numbers.get(pieces[tokens[i]][1] + pieces[tokens[i + 1]][1])
            if joined is not None and pieces[joined][0] > best:
                best, where, merged = pieces[joined][0], i, joined
        if where is None:
            return [1, *tokens]
        tokens[where : where + 2] = [merged]


MERGES = {
    "words": [b"ab", b" a", b"ba", b"aab", b" ab", b"bab", "éa".encode(), b"cc", b"ccc"],
    "across words": [b"a b", b"a ", b"ab", b"  ", b" a", b"b a", b"c ", "c é".encode()],
    "equal scores": [b"aa", b"aaa", b"ab", b"aab", b" a"],
}


@functools.cache
def tokenizer_of(kind: str, folder: Path) -> tuple[Llama2cTokenizer, list[tuple[float, bytes]]]:
    pieces = pieces_of(MERGES[kind])
    if kind == "equal scores":
        pieces = [(max(score, -1.0), piece) for score, piece in pieces]
    path = folder / f"{kind}.bin"
    write_vocabulary(path, pieces)
    return Llama2cTokenizer(path, len(pieces)), pieces


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


@pytest.mark.parametrize("kind", MERGES)
@settings(max_examples=120)
@given(text=st.text(alphabet="abcé é\n日", max_size=25))
def test_tokens_are_those_of_the_merging_loop(vocabularies, kind, text):
    tokenizer, pieces = tokenizer_of(kind, vocabularies)
    assert tokenizer.encode(text) == encode_by_hand(pieces, text)
    assert tokenizer(text).input_ids == tokenizer.encode(text)


def test_an_empty_text_is_bos_alone(vocabularies):
    assert tokenizer_of("words", vocabularies)[0].encode("") == [1]


def test_the_published_vocabulary(runner_data):
    folder = runner_data / "text" / "stories260K"
    if not (folder / "tok512.bin").exists():
        pytest.skip(f"no stories260K below {runner_data}")
    data, at, pieces = (folder / "tok512.bin").read_bytes(), 4, []
    while at < len(data):
        score, count = struct.unpack_from("<fi", data, at)
        pieces.append((score, data[at + 8 : at + 8 + count]))
        at += 8 + count
    assert len(pieces) == 512
    tokenizer = Llama2cTokenizer(folder / "tok512.bin", 512)
    for text in ("Once upon a time, there was a girl named Lily.", 'She said: "No!"\n\nThe  naïve  dog 🐶 ran.', " a"):
        tokens = tokenizer.encode(text)
        assert tokens == encode_by_hand(pieces, text)
        joined = b"".join(bytes([t - 3]) if 3 <= t < 259 else pieces[t][1] for t in tokens[1:])
        assert joined.decode() == " " + text
    assert tokenizer.encode("Once upon a time")[1:] == [403, 407, 261, 378]


def test_the_published_checkpoint(runner_data):
    if not (runner_data / "text" / "stories260K" / "stories260K.bin").exists():
        pytest.skip(f"no stories260K below {runner_data}")
    model = Llama2cModel("stories260K", file="stories260K.bin", vocabulary="tok512.bin", root=runner_data)
    assert (model.config.hidden_size, model.config.intermediate_size, model.longest) == (64, 172, 512)
    network = model.load()
    assert sum(p.numel() for p in network.parameters()) == 264128 - 2 * 512 * 4
    text = model.encode("Once upon a time, there was a little")
    with torch.no_grad():
        best = network(torch.tensor([text])).logits[0, -1].topk(3).indices.tolist()
    words = [model.tokenizer.pieces[i] for i in best]
    assert b" girl" in words or b" b" in words
