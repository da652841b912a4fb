"""Base of the networks that are conditioned on an input through an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

EncoderFactory = Callable[..., nn.Module]


def make_encoder(inputs: str, num_shapes: int, encoders: Mapping[str, EncoderFactory]) -> nn.Module | None:
    """Return the encoder for a kind of input, None for `none`.

    Args:
        inputs: kind of input, `dataset.inputs`.
        num_shapes: number of training shapes.
        encoders: factory of the encoder for each kind of input.

    Raises:
        ValueError: if `encoders` has no encoder for these inputs, or one for others.
    """
    if inputs == "none":
        return None
    if inputs not in encoders:
        raise ValueError(
            f"dataset.inputs={inputs} needs an encoder: model.encoders.{inputs}; there are {', '.join(encoders)}"
        )
    encoder = encoders[inputs](num_shapes=num_shapes)
    if encoder.inputs != inputs:
        raise ValueError(f"model.encoders.{inputs} is an encoder of {encoder.inputs}")
    return encoder


class ConditionedNetwork(nn.Module):
    """Network with an encoder from the inputs of a `ShapeBatch` to codes (B, c_dim); c_dim is 0 without encoder.

    Args:
        inputs: kind of input, from the data set.
        num_shapes: number of training shapes, from the data set.
        encoders: factory of the encoder for each kind of input.
    """

    tasks = ("shape-reconstruction",)

    def __init__(self, inputs: str, num_shapes: int, encoders: Mapping[str, EncoderFactory]) -> None:
        super().__init__()
        self.inputs = inputs
        self.encoder = make_encoder(inputs, num_shapes, encoders)
        self.c_dim: int = self.encoder.c_dim if self.encoder is not None else 0  # type: ignore[assignment]

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes (B, c_dim) of the inputs."""
        return x if self.encoder is None else self.encoder(x)

    def check_encoder(self) -> None:
        """Raise ValueError if the network has no encoder."""
        if self.encoder is None:
            raise ValueError(
                "this model needs an input to reconstruct from; dataset.inputs=none goes with model=onet_vae"
            )


class NoNetwork(nn.Module):
    """Placeholder network of methods that train nothing.

    Args:
        inputs: not used.
        num_shapes: not used.
    """

    tasks = ("shape-reconstruction",)

    def __init__(self, inputs: str, num_shapes: int) -> None:
        super().__init__()


def check_network(network: nn.Module, expected: type[nn.Module], model: str) -> None:
    """Check that a method got a network of its kind.

    Args:
        network: network of the run.
        expected: class that the method trains.
        model: choice of the config group `model` that builds it, for the message.

    Raises:
        ValueError: if it is of another class.
    """
    if not isinstance(network, expected):
        raise ValueError(f"this method trains a {expected.__name__}, not a {type(network).__name__}: model={model}")
