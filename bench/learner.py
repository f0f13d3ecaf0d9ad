"""The model that learns: its weights, its optimiser, and what a step does to them.

It knows a recipe, a workload and a device, and nothing of clocks, records or files.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.optim would import it on first use: 1.3 s in every process forked from here
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench import device, evaluate, noise, optim, pretrained, replicas, workload
from bench import model as models
from bench.batches import Batch
from bench.evaluate import Scored
from bench.recipe import Recipe
from bench.streams import WARM_UP
from bench.workload import Workload

WARM_UP_STEPS = 3


class Learner:
    """Model, optimiser and gradient scaler of one run on one device, initialised from `seed`.

    `weights`: where torchvision's weight files lie, as `pretrained.load_backbone` takes it.
    BenchError: the weights that the recipe starts from cannot be had.
    """

    def __init__(
        self, recipe: Recipe, work: Workload, seed: int, where: torch.device, weights: Path | None = None
    ) -> None:
        self.recipe, self.seed, self.device = recipe.values, seed, where
        self.crop, self.replicas = work.values["train"]["crop"], work.values["train"]["replicas"]
        self.batch_size = self.recipe["optim"]["batch_size"]
        self.classes = len(work.values["data"]["classes"])
        system = workload.system(work, recipe)
        self.precision = system["precision"]
        self.autocast = torch.autocast(
            where.type, device.HALF.get(self.precision), enabled=self.precision in device.HALF
        )
        self.scaler = torch.amp.GradScaler(where.type, enabled=self.precision == "fp16")
        self.layout = torch.channels_last if system["channels_last"] else torch.contiguous_format
        self.model = self._build(work.values["model"], weights)
        self.optimizer = optim.build(self.recipe["optim"], self.model)

    def _build(self, settings: Any, place: Path | None) -> models.DeepLab:
        torch.manual_seed(self.seed)
        model = models.build(settings, self.classes)
        weights = self.recipe["model"]["weights"]
        if weights != "none":
            pretrained.load_backbone(model, settings["backbone"], settings[weights], place)
        return model.to(memory_format=self.layout).to(self.device).train()

    def train_step(self, batch: Batch, step: int, lr: float) -> Tensor:
        """One optimiser step; its loss, a scalar left on the device."""
        images, labels = batch.on(self.device)
        images, model = images.contiguous(memory_format=self.layout), self.model
        keep = replicas.dropout_mask(self.seed, step, len(images), model.head_width, model.dropout)
        keep = keep.to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        sync_bn = self.recipe["replicas"]["sync_bn"]
        with self.autocast:
            loss = replicas.accumulate(model, images, labels, keep, self.replicas, sync_bn, self.scaler.scale)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def evaluate(self, validation: Scored) -> Tensor:
        """The confusion matrix (classes, classes) over the validation set, on the CPU."""
        with self.autocast:
            return evaluate.evaluate(self.model, validation, self.device, self.classes)

    def predict(self, images: Tensor, size: tuple[int, ...]) -> Tensor:
        """Class numbers (N, *size) on the CPU for uint8 images (N, 3, h, w)."""
        self.model.eval()
        with torch.inference_mode(), self.autocast:
            prediction = evaluate.predict(self.model, images.to(self.device), size)
        self.model.train()
        return prediction.cpu()

    def warm_up(self, validation: Scored) -> int:
        """Steps on noise and one batch of evaluation, so that the first real step finds everything in place.

        Everything is put back as it was. Returns the FLOPs of one training image, forward and backward.
        """
        before = _copy(self.state())
        flops = 0
        for number in range(WARM_UP_STEPS):
            batch = noise.batch(
                self.batch_size, self.crop, self.classes, (self.seed, WARM_UP, number), self.device
            )
            with FlopCounterMode(display=False) if number == 0 else contextlib.nullcontext() as counter:
                self.train_step(batch, step=0, lr=0.0)
            if counter is not None:
                flops = counter.get_total_flops() // self.batch_size
        images, labels = next(iter(validation))
        self.predict(images, labels.shape[1:])
        self.optimizer = optim.build(self.recipe["optim"], self.model)
        self.load(before)
        return flops

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def _copy(state: Any) -> Any:
    """A deep copy of a state, tensors cloned."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    return [_copy(value) for value in state] if isinstance(state, list) else state
