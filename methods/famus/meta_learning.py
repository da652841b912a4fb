"""Base classes of methods that learn sample weights from the loss after a virtual step, through all layers or a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.checks import check_choice, check_not_negative
from methods.famus.meta_gradient import (
    ALIGNMENT_LOSSES,
    GATE_GRADIENTS,
    Loss,
    Params,
    VirtualStep,
    WeightedBatch,
    cross_entropies,
    forward_mode_meta_gradient,
    sgd_offset,
    unrolled_meta_gradient,
)
from methods.famus.module import NoisyTraining

META_GRADIENTS = ("forward_mode", "unrolled")
VIRTUAL_STEPS = ("plain", "full")


class MetaLearning(NoisyTraining):
    """Base class of methods with a virtual step, a meta update and, for FaMUS, gates. Subclasses call `set_gates`.

    Metrics besides those of `NoisyTraining`:
        train/meta_loss: validation loss after the virtual step.
        train/open_gates: number of open gates, with gates only.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        gate_optimizer: function of the gates' parameters that returns their optimizer.
        budget_weight: weight of the loss that keeps the number of open gates near its budget (lambda_1, equation 12).
        alignment_weight: weight of the alignment loss (lambda_2, equation 12).
        alignment_form: "paper" for equation 11, "code" for the loss of the published code.
        gate_gradient: sign of the gradient of closed gates, "published" or "consistent", as in `GATE_GRADIENTS`.
        virtual_step: "plain" for gradient descent, as published; "full" adds the momentum and the weight decay of the
            network's optimizer.
        meta_gradient: "forward_mode", or "unrolled" as published; the values are the same.
        **options: as in `NoisyTraining`.
    """

    distributed = False  # each process would learn from its own part of the images
    meta_batch_size: int

    def __init__(
        self,
        network: nn.Module,
        gate_optimizer: Callable[..., Optimizer] | None = None,
        budget_weight: float = 0.1,
        alignment_weight: float = 0.0,
        alignment_form: str = "paper",
        gate_gradient: str = "published",
        virtual_step: str = "plain",
        meta_gradient: str = "forward_mode",
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        check_choice("method.alignment_form", alignment_form, tuple(ALIGNMENT_LOSSES))
        check_choice("method.gate_gradient", gate_gradient, tuple(GATE_GRADIENTS))
        check_choice("method.virtual_step", virtual_step, VIRTUAL_STEPS)
        check_choice("method.meta_gradient", meta_gradient, META_GRADIENTS)
        check_not_negative("method", budget_weight=budget_weight, alignment_weight=alignment_weight)
        self.gate_optimizer = gate_optimizer
        self.budget_weight, self.alignment_weight = budget_weight, alignment_weight
        self.alignment_loss = ALIGNMENT_LOSSES[alignment_form]
        self.straight_through = GATE_GRADIENTS[gate_gradient]
        self.virtual_step, self.meta_gradient = virtual_step, meta_gradient

    def set_gates(self, gates: nn.Module | None) -> None:
        """Register the gates.

        Args:
            gates: `Gates`, a `LayerRule`, or a list of them; None: all layers are open.

        Raises:
            ValueError: the gates have parameters, and there is no `gate_optimizer`.
        """
        self.gates: Any = gates
        self.gate_parameters = [] if gates is None else list(gates.parameters())
        if self.gate_parameters and self.gate_optimizer is None:
            raise ValueError("method.gates needs method.gate_optimizer")

    def configure_optimizers(self) -> Any:
        """Return the optimizers of the network and of the gates, and the network's scheduler."""
        optimizers, schedulers = super().configure_optimizers()
        if self.gate_parameters and self.gate_optimizer is not None:
            optimizers.append(self.gate_optimizer(self.gate_parameters))
        return optimizers, schedulers

    @property
    def network_lr(self) -> float:
        """Current learning rate of the network, which is that of the virtual step too."""
        return self.trainer.optimizers[0].param_groups[0]["lr"]

    def virtual_start(self, params: Params) -> tuple[Params, float]:
        """Return the parameters that the virtual step starts from, and its step size."""
        if self.virtual_step == "plain":
            return params, self.network_lr
        (optimizer, *_) = self.trainer.optimizers
        assert isinstance(optimizer, torch.optim.SGD)
        return sgd_offset(params, optimizer)

    def step_settings(
        self, lr: float, gates: Any, gradients: Mapping[str, Tensor], val_loss: Loss = cross_entropies
    ) -> VirtualStep:
        """Sample the gates, and return the settings of the virtual step.

        Args:
            lr: step size.
            gates: gates of the network, or None.
            gradients: gradients of the training loss by layer, which the gates see without their graph.
            val_loss: per-sample loss of the meta loss.
        """
        return VirtualStep(
            lr=lr,
            gates=None if gates is None else gates({n: g.detach() for n, g in gradients.items()}),
            ungated=() if gates is None else gates.ungated,
            alignment_weight=self.alignment_weight,
            alignment_loss=self.alignment_loss,
            straight_through=self.straight_through,
            val_loss=val_loss,
        )

    def meta_update(
        self, meta_loss: Tensor, objective: Tensor, gates: Any, gate_values: Mapping[str, Tensor] | None
    ) -> None:
        """Take a step of all optimizers but the network's, and log the meta loss.

        Args:
            meta_loss: validation loss after the virtual step.
            objective: scalar with the gradient of the meta loss.
            gates: gates of the network, or None.
            gate_values: values of the gates by layer, or None.

        Raises:
            FloatingPointError: the meta loss is not finite.
        """
        if not torch.isfinite(meta_loss):
            raise FloatingPointError(
                f"train/meta_loss is {float(meta_loss)} after the virtual step {self.global_step} (epoch "
                f"{self.current_epoch}): the network or the weight net has diverged; lower method.lr or the learning "
                "rate of the weight net"
            )
        size = self.meta_batch_size
        self.log("train/meta_loss", meta_loss.detach(), on_step=False, on_epoch=True, batch_size=size)
        if gate_values is not None:
            objective = objective + self.budget_weight * gates.budget_loss(gate_values)
            count = self.diagnostics.observe_gates(gates.names, gate_values)
            self.log("train/open_gates", count, on_step=False, on_epoch=True, batch_size=size)
        optimizers = self.trainer.optimizers[1:]  # not Lightning's wrappers, which would count their steps as well
        inputs = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        if not inputs:
            return
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(objective, inputs=inputs)
        for optimizer in optimizers:
            optimizer.step()

    def update_weight_net(
        self,
        network: nn.Module,
        gates: Any,
        batch: WeightedBatch,
        draw_val: Callable[[], tuple[Tensor, Any]],
        val_loss: Loss = cross_entropies,
    ) -> None:
        """Take a virtual step on a weighted batch, and update what its weights depend on.

        Args:
            network: network that takes the virtual step.
            gates: its gates, or None.
            batch: training batch with its losses and weights.
            draw_val: function that returns inputs and targets of a validation batch.
            val_loss: per-sample loss on validation data.
        """
        params = dict(network.named_parameters())
        gradients = batch.gradients(params, create_graph=self.meta_gradient == "unrolled")
        start, lr = self.virtual_start(params)
        step = self.step_settings(lr, gates, gradients, val_loss)
        if self.meta_gradient == "unrolled":
            meta_loss = objective = unrolled_meta_gradient(network, start, gradients, draw_val(), step)
        else:
            meta_loss, slopes, gate_term = forward_mode_meta_gradient(
                network, params, gradients, batch.x, batch.losses_of, draw_val(), step, start
            )
            objective = (slopes * batch.weights).sum() + gate_term
        self.meta_update(meta_loss, objective, gates, step.gates)


class CleanImageMetaLearning(MetaLearning):
    """Base class of methods that learn from a small set of clean images, with one network.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        meta_batch_size: number of clean images in a step.
        gates: function of the network that returns its `Gates` or `LayerRule`; None: all layers are open.
        **options: as in `MetaLearning`.
    """

    def __init__(
        self,
        network: nn.Module,
        meta_batch_size: int = 100,
        gates: Callable[[nn.Module], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        self.meta_batch_size = meta_batch_size
        self.clean_batches: Iterator[Any] = iter(())
        self.set_gates(None if gates is None else gates(self.network))

    def prepare(self, data: Any) -> None:
        """Check that there are clean images.

        Raises:
            ValueError: there are none, or fewer than a batch.
        """
        super().prepare(data)
        if not data.meta:
            raise ValueError("this method needs clean images: dataset.meta=<number of each class>")
        data.meta_batches(self.meta_batch_size, 0)

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sequence of clean batches."""
        super().on_train_epoch_start()
        self.clean_batches = self.data.meta_batches(self.meta_batch_size, self.current_epoch)

    def next_clean_batch(self) -> tuple[Tensor, Tensor]:
        """Return the next clean images and labels."""
        batch = next(self.clean_batches)
        return batch.x.to(self.device), batch.y.to(self.device)
