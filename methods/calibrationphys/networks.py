"""Networks from maps to waves, one for each camera."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, interpolate


def conv_block(inputs: int, outputs: int, kernel: tuple[int, int]) -> nn.Sequential:
    """Return convolution with bias and same padding, batch normalisation, ELU.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: size in patches and in time.
    """
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding="same"), nn.BatchNorm2d(outputs), nn.ELU())


def check_least_width(width: int) -> None:
    """Raise ValueError if a network's first layers, of a quarter of its width, would have no channels."""
    if width < 4:
        raise ValueError(f"model.width must be at least 4, got {width}")


class PhysNet2D(nn.Module):
    """PhysNet on a spatio-temporal map (paper, figure 4, as a public re-implementation gives it).

    Patches are halved four times, time once or twice and back. With one channel and width 64 it has 290,817 parameters.

    Args:
        channels: channels C of the map.
        width: channels of the inner layers; the stem has half of them.
        stem_axis: axis of the five taps of the first convolution: `space` as in PhysNet, `time`.
        up_axis: axis of the three taps of the last convolution block: `time` as in PhysNet, `space`.
        time_pools: how often time is halved, 1 or 2.
    """

    min_patches = 16

    def __init__(
        self,
        channels: int,
        width: int = 64,
        stem_axis: Literal["space", "time"] = "space",
        up_axis: Literal["space", "time"] = "time",
        time_pools: int = 1,
    ) -> None:
        super().__init__()
        if time_pools not in (1, 2):
            raise ValueError(f"model.time_pools must be 1 or 2, got {time_pools}")
        check_least_width(width)
        half = width // 2
        self.time_pools = time_pools
        self.stem = conv_block(channels, half, (5, 1) if stem_axis == "space" else (1, 5))
        self.stages = nn.ModuleList()
        for number, inputs in enumerate((half, width, width, width)):
            halves_time = number == 2 or (number == 1 and time_pools == 2)
            self.stages.append(
                nn.Sequential(
                    nn.AvgPool2d((2, 2 if halves_time else 1)),
                    conv_block(inputs, width, (3, 3)),
                    conv_block(width, width, (3, 3)),
                )
            )
        self.up = nn.ModuleList(
            conv_block(width, width, (1, 3) if up_axis == "time" else (3, 1)) for _ in range(time_pools)
        )
        self.head = nn.Conv2d(width, 1, 1)

    def features(self, maps: Tensor) -> Tensor:
        """Return features (B, width, M / 16, T) of maps (B, C, M, T)."""
        x = self.stem(maps)
        for stage in self.stages:
            x = stage(x)
        for block in self.up:
            x = block(interpolate(x, scale_factor=(1, 2), mode="bilinear", align_corners=False))
        if x.shape[-1] != maps.shape[-1]:
            x = interpolate(x, size=(x.shape[-2], maps.shape[-1]), mode="bilinear", align_corners=False)
        return x

    def forward(self, maps: Tensor) -> Tensor:
        """Return waves (B, T) of maps (B, C, M, T)."""
        return self.head(self.features(maps).mean(dim=2, keepdim=True))[:, 0, 0]

    def rows(self, maps: Tensor, count: int) -> Tensor:
        """Return a wave for each of `count` groups of patches, (B, count, T)."""
        waves = self.head(self.features(maps))[:, 0]  # (B, M / 16, T)
        return adaptive_avg_pool1d(waves.transpose(1, 2), count).transpose(1, 2)


class PhysNet3D(nn.Module):
    """PhysNet (Yu et al. 2019): 3D convolutions on a video; here each patch of a square map is a pixel.

    Args:
        channels: channels C of the map.
        patches: number of patches M, a square number.
        width: channels of the inner layers; the stem has a quarter of them, and a half.
        decoder: `transposed`, after pools of maxima, as in PhysNet; or `interpolate`, after pools of means, as Gideon
            and Stent (2021) and Contrast-Phys have it.
    """

    min_patches = 4

    def __init__(
        self,
        channels: int,
        patches: int,
        width: int = 64,
        decoder: Literal["transposed", "interpolate"] = "transposed",
    ) -> None:
        super().__init__()
        self.side = round(patches**0.5)
        if self.side**2 != patches:
            raise ValueError(f"model: PhysNet in 3D needs a square grid of patches, the map has {patches}")
        check_least_width(width)
        halvings = min(4, self.side.bit_length() - 1)
        self.feature_rows = (self.side >> halvings) ** 2
        pool = nn.MaxPool3d if decoder == "transposed" else nn.AvgPool3d
        widths = [width // 4, width // 2, width, width, width, width]

        def block(inputs: int, outputs: int, kernel: tuple[int, int, int]) -> nn.Sequential:
            conv = nn.Conv3d(inputs, outputs, kernel, padding="same")
            return nn.Sequential(conv, nn.BatchNorm3d(outputs), nn.ReLU())

        layers: list[nn.Module] = [block(channels, widths[0], (1, 5, 5))]
        for stage in range(4):
            space = 2 if stage < halvings else 1
            size = (2 if stage in (1, 2) else 1, space, space)
            inputs = widths[0] if stage == 0 else width
            layers += [pool(size), block(inputs, widths[1] if stage == 0 else width, (3, 3, 3))]
            layers.append(block(widths[1] if stage == 0 else width, width, (3, 3, 3)))
        self.encoder = nn.Sequential(*layers)
        self.decoder = nn.ModuleList(self._upsampling(width, decoder) for _ in range(2))
        self.head = nn.Conv3d(width, 1, 1)

    @staticmethod
    def _upsampling(width: int, decoder: str) -> nn.Sequential:
        if decoder == "transposed":
            conv: nn.Module = nn.ConvTranspose3d(width, width, (4, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
            return nn.Sequential(conv, nn.BatchNorm3d(width), nn.ELU())
        upsample = nn.Upsample(scale_factor=(2, 1, 1), mode="nearest")
        conv = nn.Conv3d(width, width, (3, 1, 1), padding="same")
        return nn.Sequential(upsample, conv, nn.BatchNorm3d(width), nn.ELU())

    def features(self, maps: Tensor) -> Tensor:
        """Return features (B, width, T', h, w) of maps (B, C, M, T), T' about T."""
        video = maps.unflatten(2, (self.side, self.side)).permute(0, 1, 4, 2, 3)
        x = self.encoder(video)
        for block in self.decoder:
            x = block(x)
        return x

    def forward(self, maps: Tensor) -> Tensor:
        """Return waves (B, T) of maps (B, C, M, T)."""
        return self._wave(self.features(maps).mean(dim=(3, 4), keepdim=True), maps.shape[-1])[:, 0]

    def rows(self, maps: Tensor, count: int) -> Tensor:
        """Return a wave for each of `count` groups of patches, (B, count, T); `count` is a square number."""
        side = round(count**0.5)
        if side**2 != count:
            raise ValueError(f"method.rows must be a square number with a network in 3D, got {count}")
        x = self.features(maps)
        pooled = nn.functional.adaptive_avg_pool3d(x, (x.shape[2], side, side))
        return self._wave(pooled, maps.shape[-1])

    def _wave(self, pooled: Tensor, length: int) -> Tensor:
        """Return (B, h * w, T) of pooled features (B, width, T', h, w)."""
        waves = self.head(pooled)[:, 0].flatten(2).transpose(1, 2)
        if waves.shape[-1] == length:
            return waves
        return interpolate(waves, size=length, mode="linear", align_corners=False)


class CameraNetworks(nn.Module):
    """One network for each camera, without common weights; with `shared`, one for all of them.

    `feature_rows` is the number of places that the features distinguish.

    Args:
        channels: channels of the maps, by camera.
        patches: number of patches of a map.
        shared: one network for all cameras.
        build: function from channels to a network.
        min_patches: least number of patches that the networks can take.
    """

    tasks = ("face-video",)
    feature_rows: int

    def __init__(
        self,
        channels: Mapping[str, int],
        patches: int,
        shared: bool,
        build: Callable[[int], nn.Module],
        min_patches: int,
    ) -> None:
        super().__init__()
        if patches < min_patches:
            raise ValueError(f"model: maps need at least {min_patches} patches, these have {patches}")
        if shared and len(set(channels.values())) > 1:
            raise ValueError(f"model.shared=true: the cameras have different channels, {dict(channels)}")
        self.cameras, self.shared = list(channels), shared
        self.dims: dict[str, Any] = {"channels": dict(channels), "patches": patches}
        names = ["all"] if shared else self.cameras
        sizes = [next(iter(channels.values()))] if shared else list(channels.values())
        self.networks = nn.ModuleDict({name: build(size) for name, size in zip(names, sizes, strict=True)})

    def of(self, camera: str) -> nn.Module:
        """Return the network of a camera.

        Args:
            camera: name of the camera.
        """
        return self.networks["all" if self.shared else camera]

    def forward(self, camera: str, maps: Tensor) -> Tensor:
        """Return waves (B, T) of normalised maps (B, C, M, T) of a camera."""
        return self.of(camera)(maps)


class CameraPhysNet2D(CameraNetworks):
    """A `PhysNet2D` for each camera.

    Args:
        channels: channels of the maps, by camera.
        patches: number of patches of a map.
        shared: one network for all cameras.
        width: channels of the inner layers.
        stem_axis: axis of the first convolution, as in `PhysNet2D`.
        up_axis: axis of the last one.
        time_pools: how often time is halved.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        patches: int,
        shared: bool = False,
        width: int = 64,
        stem_axis: Literal["space", "time"] = "space",
        up_axis: Literal["space", "time"] = "time",
        time_pools: int = 1,
    ) -> None:
        build = lambda size: PhysNet2D(size, width, stem_axis, up_axis, time_pools)  # noqa: E731
        super().__init__(channels, patches, shared, build, PhysNet2D.min_patches)
        self.feature_rows = patches // PhysNet2D.min_patches


class CameraPhysNet3D(CameraNetworks):
    """A `PhysNet3D` for each camera.

    Args:
        channels: channels of the maps, by camera.
        patches: number of patches of a map.
        shared: one network for all cameras.
        width: channels of the inner layers.
        decoder: transposed or interpolate, as in `PhysNet3D`.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        patches: int,
        shared: bool = False,
        width: int = 64,
        decoder: Literal["transposed", "interpolate"] = "transposed",
    ) -> None:
        build = lambda size: PhysNet3D(size, patches, width, decoder)  # noqa: E731
        super().__init__(channels, patches, shared, build, PhysNet3D.min_patches)
        self.feature_rows = cast(PhysNet3D, next(iter(self.networks.values()))).feature_rows


class NoCameraNetwork(nn.Module):
    """Placeholder for methods that train nothing.

    Args:
        channels: channels of the maps, by camera.
        patches: not used.
    """

    tasks = ("face-video",)

    def __init__(self, channels: Mapping[str, int], patches: int) -> None:
        super().__init__()
        self.cameras = list(channels)
