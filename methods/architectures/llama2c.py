"""Models in the format of llama2.c: one file of float32 weights and a byte-pair tokenizer."""

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
    """llama2.c checkpoint (version 0) as a transformers LLaMA.

    Args:
        path: folder of the two files; looked up under the data folder and its subfolder `text` too.
        file: name of the weights file.
        vocabulary: name of the tokenizer file.
        **model: other arguments of `LanguageModel`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the size of a file does not fit the header.
    """

    def __init__(self, path: str, file: str, vocabulary: str, **model: Any) -> None:
        self.file, self.vocabulary = file, vocabulary
        super().__init__(path, **model)

    @property
    def folder(self) -> None:
        """None: the format has no shards."""
        return None

    def find(self, root: Path) -> str:
        """Return the folder of both files. Raise FileNotFoundError if there is none."""
        folders = [Path(self.path), root / "text" / self.path, root / self.path]
        for folder in folders:
            if (folder / self.file).is_file() and (folder / self.vocabulary).is_file():
                return str(folder)
        places = "\n".join(f"  {folder.absolute()}" for folder in folders)
        raise FileNotFoundError(
            f"{self.file} and {self.vocabulary} (llama2.c) were not found. Put both in one of\n{places}\n"
            "or name another data folder: RUNNER_DATA=<folder>, or paths.data=<folder>"
        )

    def read_config(self) -> Any:
        """Build the transformers config from the header of the weights file."""
        from transformers import LlamaConfig

        path = Path(self.place) / self.file
        if path.stat().st_size < HEADER:
            raise ValueError(f"{path} is shorter than the header of a llama2.c model")
        dim, hidden, layers, heads, kv_heads, vocab, longest = np.fromfile(path, dtype="<i4", count=7).tolist()
        self.tied = vocab > 0
        settings: dict[str, Any] = {"rope_theta": 10000.0}  # absent from the declared type
        config = LlamaConfig(
            vocab_size=abs(vocab),
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=longest,
            rms_norm_eps=1e-5,
            **settings,
            tie_word_embeddings=self.tied,
            bos_token_id=BOS,
            eos_token_id=2,
        )
        config.architectures = ["LlamaForCausalLM"]
        return config

    def read_tokenizer(self) -> Llama2cTokenizer:
        """Read the tokenizer file."""
        return Llama2cTokenizer(Path(self.place) / self.vocabulary, self.config.vocab_size)

    def read_weights(self) -> nn.Module:
        """Read the weights into a transformers model."""
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM(self.config)
        model.load_state_dict(self._state_dict())
        return nn.Module.to(model, self.dtype)

    def _state_dict(self) -> dict[str, Tensor]:
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        tensors = self._tensors()
        state = {"model.embed_tokens.weight": tensors["embed_tokens"], "model.norm.weight": tensors["norm"]}
        state["lm_head.weight"] = tensors["embed_tokens" if self.tied else "lm_head"]
        for name, layers in tensors.items():
            if name in ("embed_tokens", "norm", "rope", "lm_head"):
                continue
            for i, weight in enumerate(layers):
                if name in ("self_attn.q_proj", "self_attn.k_proj"):
                    weight = halves_from_pairs(weight, head_dim)
                state[f"model.layers.{i}.{name}.weight"] = weight
        return state

    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the weights file by name; those of the layers have the layer as first dimension."""
        c = self.config
        dim, layers, hidden = c.hidden_size, c.num_hidden_layers, c.intermediate_size
        head_dim = dim // c.num_attention_heads
        kv_dim = c.num_key_value_heads * head_dim
        shapes = {
            "embed_tokens": (c.vocab_size, dim),
            "input_layernorm": (layers, dim),
            "self_attn.q_proj": (layers, dim, dim),
            "self_attn.k_proj": (layers, kv_dim, dim),
            "self_attn.v_proj": (layers, kv_dim, dim),
            "self_attn.o_proj": (layers, dim, dim),
            "post_attention_layernorm": (layers, dim),
            "mlp.gate_proj": (layers, hidden, dim),
            "mlp.down_proj": (layers, dim, hidden),
            "mlp.up_proj": (layers, hidden, dim),
            "norm": (dim,),
            "rope": (2, c.max_position_embeddings * (head_dim // 2)),
        } | ({} if self.tied else {"lm_head": (c.vocab_size, dim)})
        sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        path = Path(self.place) / self.file
        numbers = torch.from_numpy(np.fromfile(path, dtype="<f4", offset=HEADER))
        if numbers.numel() != sum(sizes.values()):
            raise ValueError(f"{path} holds {numbers.numel()} weights; its header asks for {sum(sizes.values())}")
        parts = zip(shapes, numbers.split(list(sizes.values())), strict=True)
        return {name: part.view(shapes[name]) for name, part in parts}


def halves_from_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows of each head from interleaved rotary pairs (0, 1), (2, 3), ... to transformers' halves.

    Shapes:
        weight: (heads * head_dim, C). Result: the same shape.
    """
    rows, columns = weight.shape
    return weight.view(rows // head_dim, head_dim // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


class Llama2cTokenizer:
    """Byte-pair encoding of llama2.c, which merges the pair of highest score first.

    Args:
        file: tokenizer file: int32 length of the longest token, then float32 score, int32 n and n bytes for each token.
        size: number of tokens to read.

    Raises:
        ValueError: if the file holds fewer tokens.
    """

    bos_token_id = BOS

    def __init__(self, file: Path, size: int) -> None:
        data = file.read_bytes()
        self.scores: list[float] = []
        self.pieces: list[bytes] = []
        at = 4
        while len(self.pieces) < size:
            count = int(np.frombuffer(data, "<i4", 1, at + 4)[0]) if at + 8 <= len(data) else 0
            if count < 0 or at + 8 + count > len(data):
                raise ValueError(f"{file} holds {len(self.pieces)} tokens, the model has {size}")
            self.scores.append(float(np.frombuffer(data, "<f4", 1, at)[0]))
            self.pieces.append(data[at + 8 : at + 8 + count])
            at += 8 + count
        self.numbers = {piece: i for i, piece in enumerate(self.pieces)}
        inner_space = any(b" " in piece[1:] for piece in self.pieces)
        self.split = re.compile("(?!)" if inner_space else "(?= )")  # no merge can cross these places
        self.merged: dict[str, list[int]] = {}

    def __call__(self, text: str, verbose: bool = False) -> Any:
        """Return an encoding with `input_ids`, as tokenizers of transformers do."""
        from transformers import BatchEncoding

        return BatchEncoding({"input_ids": self.encode(text)})

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, BOS first."""
        tokens = [BOS]
        for word in self.split.split(" " + text) if text else ():
            if word not in self.merged:
                self.merged[word] = self._merge(word)
            tokens += self.merged[word]
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens. Special tokens have none, and bytes that are no UTF-8 become �."""
        raw = [bytes([t - 3]) if t < 259 else self.pieces[t] for t in tokens if t >= 3]
        return b"".join(raw).decode(errors="replace")

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
