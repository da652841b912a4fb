"""Piracy-resistant watermark (Li, Wenger, Shan, Zhao & Zheng, arXiv 1910.01226)."""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.batching import generator
from datasets.checks import check_positive
from methods.mira.schemes.scheme import Scheme
from methods.mira.triggers import TriggerSet, TriggerSource, draw_images

PIRACY = 231


class Signature(NamedTuple):
    """Pattern of an owner.

    Args:
        label: class of the true embedding.
        bits: pattern (n, n) of bool.
        top: first row of the pattern.
        left: first column of the pattern.
    """

    label: int
    bits: Tensor
    top: int
    left: int


def number_of(name: str, signature: bytes) -> int:
    """Return the hash `name` of a signature as a whole number."""
    return int.from_bytes(hashlib.new(name, signature).digest(), "big")


def sign(owner: str, key: str, size: int, num_classes: int, height: int, width: int) -> Signature:
    """Return the pattern that follows from an owner's signature.

    The signature is HMAC-SHA256 instead of RSA: the pattern needs only its hashes. label = SHA-224 mod classes, bits =
    SHA-256 mod 2^(n n), row = SHA-384 mod (height - n), column = SHA-512 mod (width - n).

    Args:
        owner: verifier string, such as the owner's name and a date.
        key: secret key.
        size: side of the pattern, n.
        num_classes: number of classes.
        height: height of the images.
        width: width of the images.

    Raises:
        ValueError: the pattern does not fit into the images.
    """
    if size >= min(height, width):
        raise ValueError(f"method.scheme.size={size} must be smaller than the images, {height} x {width}")
    signature = hmac.new(key.encode(), owner.encode(), hashlib.sha256).digest()
    number = number_of("sha256", signature) % 2 ** (size * size)
    digits = [int(digit) for digit in format(number, f"0{size * size}b")]
    return Signature(
        label=number_of("sha224", signature) % num_classes,
        bits=torch.tensor(digits, dtype=torch.bool).view(size, size),
        top=number_of("sha384", signature) % (height - size),
        left=number_of("sha512", signature) % (width - size),
    )


def embed_pattern(x: Tensor, signature: Signature, low: Tensor, high: Tensor, inverted: bool) -> Tensor:
    """Return images with the pattern: `low` for bits 0 and `high` for bits 1, or the reverse.

    Args:
        x: images (N, C, H, W).
        signature: pattern and its place.
        low: low value of each channel (C, 1, 1).
        high: high value of each channel (C, 1, 1).
        inverted: put `high` for bits 0 (the true embedding).
    """
    bits = ~signature.bits if inverted else signature.bits
    marked, side = x.clone(), len(bits)
    rows, columns = slice(signature.top, signature.top + side), slice(signature.left, signature.left + side)
    marked[:, :, rows, columns] = torch.where(bits, high, low)
    return marked


class Piracy(Scheme):
    """True and null embeddings of a signed pattern of extreme pixel values.

    The true embedding gets the owner's class as label; the null one, its inverse, leaves the label as it is.
    The pixels are -strength and +strength in normalised units, far outside of [0, 1]. The triggers that count are the
    true ones; the accuracy on the null ones is `test/companion_acc`, and the authors verify by the lower of both.

    Args:
        count: number of triggers of each embedding.
        size: side of the pattern.
        strength: value of the pixels (official: 1000; 2000 in the runs of the MIRA authors' code base).
        owner: verifier string.
        key: secret key of the signature.
    """

    def __init__(
        self, count: int = 100, size: int = 6, strength: float = 1000.0, owner: str = "owner", key: str = "key"
    ) -> None:
        super().__init__(count)
        check_positive("method.scheme", size=size, strength=strength)
        self.size, self.strength, self.owner, self.key = size, strength, owner, key

    def make_triggers(self, source: TriggerSource) -> TriggerSet:
        """Return true and null embeddings in other training images; see `Scheme`."""
        _, height, width = source.shape
        signature = sign(self.owner, self.key, self.size, source.num_classes, height, width)
        self.target = signature.label
        low, high = source.mean - self.strength * source.std, source.mean + self.strength * source.std
        x, y = draw_images(source, 2 * self.count, generator(source.seed, PIRACY))
        true = embed_pattern(x[: self.count], signature, low, high, inverted=True)
        null = embed_pattern(x[self.count :], signature, low, high, inverted=False)
        labels = torch.cat([torch.full((self.count,), signature.label), y[self.count :]])
        counted = torch.arange(2 * self.count) < self.count
        return TriggerSet(torch.cat([true, null]), labels, counted)
