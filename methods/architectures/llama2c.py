"""Models in the format of llama2.c: one file of float32 weights, and its own byte-pair tokenizer."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.architectures.language import LanguageModel

BOS = 1
HEADER = 28  # bytes, seven int32


class Llama2cModel(LanguageModel):
    """A llama2.c checkpoint (version 0) as a transformers LLaMA.

    Args: path, a folder (looked up below the data folder's `text` too) with the weights `file` and the `vocabulary`.
    Raises FileNotFoundError, ValueError where the file's size does not fit its header.
    """

    def __init__(self, path: str, file: str, vocabulary: str, **model: Any) -> None:
        self.file, self.vocabulary = file, vocabulary
        super().__init__(path, **model)

    @property
    def folder(self) -> None:
        return None

    def find(self, root: Path) -> str:
        folders = [Path(self.path), root / "text" / self.path, root / self.path]
        for folder in folders:
            if (folder / self.file).is_file() and (folder / self.vocabulary).is_file():
                return str(folder)
        places = "\n".join(f"  {folder.absolute()}" for folder in folders)
        raise FileNotFoundError(
            f"{self.file} and {self.vocabulary} (llama2.c) are not here. Put both in one of\n{places}\n"
            "or name another data folder: RUNNER_DATA=<folder>, or paths.data=<folder>"
        )

    def read_config(self) -> Any:
        from transformers import LlamaConfig

        path = Path(self.place) / self.file
        if path.stat().st_size < HEADER:
            raise ValueError(f"{path} is shorter than the header of a llama2.c model")
        dim, hidden, layers, heads, kv_heads, vocab, longest = np.fromfile(path, dtype="<i4", count=7).tolist()
        self.tied = vocab > 0
        config = LlamaConfig(
            vocab_size=abs(vocab),
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=longest,
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            tie_word_embeddings=self.tied,
            bos_token_id=BOS,
            eos_token_id=2,
        )
        config.architectures = ["LlamaForCausalLM"]
        return config

    def read_tokenizer(self) -> Llama2cTokenizer:
        return Llama2cTokenizer(Path(self.place) / self.vocabulary, self.config.vocab_size)

    def read_weights(self) -> nn.Module:
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM(self.config)
        model.load_state_dict(self._state())
        return model.to(self.dtype)

    def _state(self) -> dict[str, Tensor]:
        c = self.config
        path = Path(self.place) / self.file
        numbers = torch.from_numpy(np.fromfile(path, dtype="<f4", offset=HEADER))
        dim, layers, hidden, kv = c.hidden_size, c.num_hidden_layers, c.intermediate_size, c.num_key_value_heads
        head = dim // c.num_attention_heads
        rope = c.max_position_embeddings * (head // 2)
        shapes = {
            "embed_tokens": (c.vocab_size, dim),
            "input_layernorm": (layers, dim),
            "self_attn.q_proj": (layers, dim, dim),
            "self_attn.k_proj": (layers, kv * head, dim),
            "self_attn.v_proj": (layers, kv * head, dim),
            "self_attn.o_proj": (layers, dim, dim),
            "post_attention_layernorm": (layers, dim),
            "mlp.gate_proj": (layers, hidden, dim),
            "mlp.down_proj": (layers, dim, hidden),
            "mlp.up_proj": (layers, hidden, dim),
            "norm": (dim,),
            "rope": (2, rope),
        } | ({} if self.tied else {"lm_head": (c.vocab_size, dim)})
        sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        if numbers.numel() != sum(sizes.values()):
            raise ValueError(f"{path} holds {numbers.numel()} weights; its header asks for {sum(sizes.values())}")
        parts = dict(zip(shapes, numbers.split(list(sizes.values())), strict=True))
        parts = {name: part.view(shapes[name]) for name, part in parts.items()}
        state = {"model.embed_tokens.weight": parts["embed_tokens"], "model.norm.weight": parts["norm"]}
        state["lm_head.weight"] = parts["embed_tokens" if self.tied else "lm_head"]
        for name, part in parts.items():
            if name in ("embed_tokens", "norm", "rope", "lm_head"):
                continue
            for i, weight in enumerate(part):
                if name in ("self_attn.q_proj", "self_attn.k_proj"):
                    weight = halves_from_pairs(weight, head)
                state[f"model.layers.{i}.{name}.weight"] = weight
        return state


def halves_from_pairs(weight: Tensor, head: int) -> Tensor:
    """Rows of each head from interleaved rotary pairs (0, 1), (2, 3), ... to transformers' halves."""
    rows, columns = weight.shape
    return weight.view(rows // head, head // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


class Llama2cTokenizer:
    """llama2.c's byte-pair encoding by scores. `file`: int32 longest, then (float32 score, int32 n, n bytes)."""

    bos_token_id = BOS

    def __init__(self, file: Path, size: int) -> None:
        data = file.read_bytes()
        self.scores: list[float] = []
        self.pieces: list[bytes] = []
        at = 4
        while len(self.pieces) < size:
            count = int(np.frombuffer(data, "<i4", 1, at + 4)[0]) if at + 8 <= len(data) else 0
            if at + 8 + count > len(data):
                raise ValueError(f"{file} holds {len(self.pieces)} tokens, the model has {size}")
            self.scores.append(float(np.frombuffer(data, "<f4", 1, at)[0]))
            self.pieces.append(data[at + 8 : at + 8 + count])
            at += 8 + count
        self.numbers = {piece: i for i, piece in enumerate(self.pieces)}
        inner_space = any(b" " in piece[1:] for piece in self.pieces)
        self.split = re.compile("(?!)" if inner_space else "(?= )")  # no merge can cross these places
        self.merged: dict[str, list[int]] = {}

    def __call__(self, text: str, verbose: bool = False) -> Any:
        from transformers import BatchEncoding

        return BatchEncoding({"input_ids": self.encode(text)})

    def encode(self, text: str) -> list[int]:
        """Token numbers, BOS first."""
        tokens = [BOS]
        for word in self.split.split(" " + text) if text else ():
            if word not in self.merged:
                self.merged[word] = self._merge(word)
            tokens += self.merged[word]
        return tokens

    def _merge(self, text: str) -> list[int]:
        tokens: list[int] = []
        for character in text:
            raw = character.encode()
            tokens += [self.numbers[raw]] if raw in self.numbers else [byte + 3 for byte in raw]
        while True:
            pairs = ((self.pieces[a] + self.pieces[b], i) for i, (a, b) in enumerate(pairwise(tokens)))
            known = [(self.scores[self.numbers[pair]], -i) for pair, i in pairs if pair in self.numbers]
            if not known:
                return tokens
            _, minus = max(known)
            i = -minus
            tokens[i : i + 2] = [self.numbers[self.pieces[tokens[i]] + self.pieces[tokens[i + 1]]]]
