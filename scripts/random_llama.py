"""Write a model of a real LLaMA's shapes with random weights, to try pruning at full size without the real weights.

    python -m scripts.random_llama 7b FOLDER [--dtype bfloat16] [--layers N]

The tokenizer has single bytes only. Shards are written block by block, so that memory stays small.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from scripts.arguments import positive

SHAPES = {  # hidden, intermediate, layers, heads
    "7b": (4096, 11008, 32, 32),
    "13b": (5120, 13824, 40, 40),
    "30b": (6656, 17920, 60, 52),
    "65b": (8192, 22016, 80, 64),
}
VOCABULARY = 32000


def write(size: str, folder: Path, dtype: torch.dtype, layers: int | None) -> None:
    """Write config.json, tokenizer, shards (one for each block) and their index.

    Args:
        size: key of `SHAPES`.
        folder: new folder.
        dtype: dtype of the weights.
        layers: number of blocks; None: as many as the real model has.
    """
    hidden, inner, depth, heads = SHAPES[size]
    depth = layers or depth
    folder.mkdir(parents=True)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        dtype=dtype,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype).normal_(0, 0.02, generator=generator)

    linears = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    linears |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    norms = ("input_layernorm", "post_attention_layernorm")
    weight_map: dict[str, str] = {}
    for i in range(depth + 1):
        if i < depth:
            tensors = {f"model.layers.{i}.{name}.weight": weight(*shape) for name, shape in linears.items()}
            tensors |= {f"model.layers.{i}.{name}.weight": torch.ones(hidden, dtype=dtype) for name in norms}
        else:
            tensors = {f"{name}.weight": weight(VOCABULARY, hidden) for name in ("model.embed_tokens", "lm_head")}
            tensors["model.norm.weight"] = torch.ones(hidden, dtype=dtype)
        file = f"model-{i + 1:05d}-of-{depth + 1:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        print(f"\r{i + 1}/{depth + 1} shards", end="", flush=True)
    size_on_disk = sum((folder / file).stat().st_size for file in set(weight_map.values()))
    index = {"metadata": {"total_size": size_on_disk}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    print(f"\n{folder}: {size_on_disk / 2**30:.1f} GiB")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = {"<s>": 0, "</s>": 1} | {character: i + 2 for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--layers", type=positive, help="fewer blocks than the real model has")
    parsed = parser.parse_args(arguments)
    if parsed.folder.exists():
        parser.error(f"{parsed.folder} exists already")
    return parsed


def main() -> None:
    """Run the command line."""
    arguments = parse_arguments()
    write(arguments.size, arguments.folder, getattr(torch, arguments.dtype), arguments.layers)


if __name__ == "__main__":
    main()
