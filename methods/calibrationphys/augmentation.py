"""Preparation of clips: normalisation, and the change of speed that cameras of a session share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

EPS = 1e-6


def normalise_rgb(maps: Tensor) -> Tensor:
    """Divide each row by its mean over time, subtract 1, and standardise each row and channel.

    Args:
        maps: grey levels, (B, C, M, T); a row that is black all the time becomes zero.
    """
    mean = maps.mean(dim=-1, keepdim=True)
    relative = (maps - mean) / mean.clamp_min(EPS)
    return relative / (relative.std(dim=-1, keepdim=True, correction=0) + EPS)


def normalise_flow(maps: Tensor) -> Tensor:
    """Subtract each row's mean over time, and divide the clip by its standard deviation: patches keep their weights.

    Args:
        maps: speeds, (B, C, M, T).
    """
    centred = maps - maps.mean(dim=-1, keepdim=True)
    return centred / (centred.flatten(1).std(dim=1, correction=0)[:, None, None, None] + EPS)


NORMALISATIONS = {"rgb": normalise_rgb, "flow": normalise_flow}


def resample_columns(values: Tensor, start: Tensor, span: Tensor, length: int) -> Tensor:
    """Cut `span` columns from `start` on and interpolate them linearly to `length` columns.

    Args:
        values: (B, ..., L).
        start: first column of each clip, (B,).
        span: number of columns of each clip, (B,).
        length: number of columns T of the result.

    Returns:
        (B, ..., T). Frequencies in it are (span - 1) / (T - 1) times as high.
    """
    steps = torch.arange(length, device=values.device) / (length - 1)
    position = start[:, None] + steps * (span[:, None] - 1)
    left = position.floor().long().clamp(max=values.shape[-1] - 2)
    weight = (position - left).to(values.dtype)
    shape = (len(values), *[1] * (values.ndim - 2), length)
    expanded = left.view(shape).expand(*values.shape[:-1], length)
    low, high = values.gather(-1, expanded), values.gather(-1, expanded + 1)
    return torch.lerp(low, high, weight.view(shape))


def draw_spans(count: int, length: int, available: int, speed: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Draw where clips begin and how many columns they take.

    Args:
        count: number of clips.
        length: columns T of a clip.
        available: columns that there are.
        speed: smallest and largest number of columns taken, relative to T.

    Returns:
        Starts (count,) and spans (count,).
    """
    low, high = round(speed[0] * length), min(round(speed[1] * length), available)
    spans = torch.randint(low, high + 1, (count,))
    starts = (torch.rand(count) * (available - spans + 1)).floor().long()
    return starts, spans


def change_speed(
    groups: Mapping[str, Tensor], length: int, speed: tuple[float, float], mode: Literal["shared", "independent"]
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Cut clips at random places and with random speed.

    The speed changes the rate that cameras must agree on, so that all cameras of a session share it. `independent`
    draws for each camera: a control, which teaches that different rates are equal.

    Args:
        groups: maps by camera, (B, ..., L) each.
        length: columns T of a clip.
        speed: smallest and largest number of columns taken, relative to T.
        mode: shared or independent.

    Returns:
        Clips by camera, (B, ..., T), and (starts, spans) by camera.
    """
    drawn: dict[str, tuple[Tensor, Tensor]] = {}
    clips = {}
    for name, values in groups.items():
        if mode == "independent" or not drawn:
            place = draw_spans(len(values), length, values.shape[-1], speed)
        drawn[name] = place = (place[0].to(values.device), place[1].to(values.device))
        clips[name] = resample_columns(values, *place, length)
    return clips, drawn
