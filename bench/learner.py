"""The model that learns: its weights, its optimiser, and what a step does to them.

It knows a recipe, a workload and a device, and nothing of clocks, records or files.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.optim would import it on first use: 1.3 s in every process forked from here
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import GPUTooOldForTriton, TritonMissing

from bench import BenchError, batchnorm, device, evaluate, noise, optim, pretrained, replicas, workload
from bench import model as models
from bench.batches import Batch
from bench.evaluate import Scored
from bench.group import ALONE, Gradients, Group
from bench.recipe import Recipe
from bench.streams import WARM_UP
from bench.workload import Workload

WARM_UP_STEPS = {"cpu": 2, "cuda": 3}  # after so many a step takes as long as those to come


class Learner:
    """Model, optimiser and gradient scaler of one run on this device of `group`, initialised from `seed`.

    `weights`: where torchvision's weight files lie, as `pretrained.load_backbone` takes it.
    BenchError: the weights that the recipe starts from cannot be had.
    """

    def __init__(
        self,
        recipe: Recipe,
        work: Workload,
        seed: int,
        where: torch.device,
        weights: Path | None = None,
        group: Group = ALONE,
    ) -> None:
        self.recipe, self.seed, self.device, self.group = recipe.values, seed, where, group
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
        drawn = work.values["data"]["source"] == "noise"  # where only speed counts, no weights are needed
        self.weights = "none" if drawn else self.recipe["model"]["weights"]
        self.model = self._build(work.values["model"], weights)
        self.sync_bn = self.recipe["replicas"]["sync_bn"]
        if self.sync_bn:
            batchnorm.synchronise(self.model, group, where, system["compile"])
        self.gradients = Gradients(self.model, group)
        self.objective: Any = group.wrap(replicas.Objective(self.model), where)  # the same parameters
        self.compiled = system["compile"]
        if self.compiled:  # training alone: an evaluation has pictures of many shapes
            self.objective = torch.compile(self.objective, dynamic=False)
        self.optimizer = optim.build(self.recipe["optim"], self.model)

    def _build(self, settings: Any, place: Path | None) -> models.DeepLab:
        torch.manual_seed(self.seed)
        model = models.build(settings, self.classes)
        if self.weights != "none":
            pretrained.load_backbone(model, settings["backbone"], settings[self.weights], place)
        return model.to(memory_format=self.layout).to(self.device).train()

    def train_step(self, batch: Batch, step: int, lr: float) -> Tensor:
        """One optimiser step on this device's part of the batch; the loss of the whole, a scalar left on the
        device. BenchError: it does not fit in memory."""
        with self._room():
            return self._step(batch, step, lr)

    def _step(self, batch: Batch, step: int, lr: float) -> Tensor:
        images, labels = batch.on(self.device)
        images, model, group = images.contiguous(memory_format=self.layout), self.model, self.group
        keep = replicas.dropout_mask(self.seed, step, self.batch_size, model.head_width, model.dropout)
        keep = device.send(keep[group.share(self.batch_size)], self.device)
        self.optimizer.zero_grad(set_to_none=True)
        here, scale = self.replicas // group.devices, self.scaler.scale
        with self.autocast:
            loss = replicas.accumulate(
                self.objective, images, labels, keep, here, self.sync_bn, scale, group.leads
            )
        loss = self.gradients.average(loss)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Turns want of memory into a BenchError that names what did not fit, and want of a compiler into one
        that says what to install."""
        try:
            yield
        except (BackendCompilerFailed, GPUTooOldForTriton, TritonMissing) as error:
            raise BenchError(
                f"[system] compile = true, and torch.compile does not work here: {_gist(error)}",
                "install a C++ compiler and the headers of Python (g++, python3-dev), for a GPU also triton; "
                "or leave out what states compile = true",
            ) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            here = self.batch_size // (self.group.devices if self.sync_bn else self.replicas)
            why = "with sync BN all replicas of a device go together" if self.sync_bn else "one replica"
            raise BenchError(
                f"out of memory: {here} images of {self.crop} x {self.crop} ({why}) do not fit on a device",
                "use more devices, --devices N: each then has less to hold"
                if self.sync_bn
                else "use a device with more memory, a smaller batch or a smaller crop",
            ) from error

    def evaluate(self, validation: Scored) -> Tensor:
        """The confusion matrix (classes, classes) over the validation set of all devices, on the CPU."""
        self.group.hand_on_statistics(self.model)
        with self.autocast:
            confusion = evaluate.evaluate(self.model, validation, self.device, self.classes)
        return self.group.total(confusion.to(self.device)).cpu()

    def predict(self, images: Tensor, size: tuple[int, ...]) -> Tensor:
        """Class numbers (N, *size) on the CPU for uint8 images (N, 3, h, w)."""
        self.model.eval()
        with torch.inference_mode(), self.autocast:
            prediction = evaluate.predict(self.model, images.to(self.device), size)
        self.model.train()
        return prediction.cpu()

    def warm_up(self, validation: Scored) -> None:
        """Steps on noise and one batch of evaluation, so that the first real step finds everything in place.

        Everything is put back as it was.
        """
        before = _copy(self.state())
        count = self.batch_size // self.group.devices
        for number in range(WARM_UP_STEPS[self.device.type]):
            batch = noise.batch(count, self.crop, self.classes, (self.seed, WARM_UP, number), self.device)
            self.train_step(batch, step=0, lr=0.0)
        for images, labels in itertools.islice(validation, 1):  # a small set may leave some device none
            self.predict(images, labels.shape[1:])
        if self.compiled:
            from torch._inductor.async_compile import shutdown_compile_workers  # takes long to import

            shutdown_compile_workers()  # processes of torch, which would idle beside the training
        self.optimizer = optim.build(self.recipe["optim"], self.model)
        self.load(before)

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on whatever device, or Python says that memory has run out."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _gist(error: Exception) -> str:
    """The line of a compiler's message that says what is wrong."""
    cause = error.inner_exception if isinstance(error, BackendCompilerFailed) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else type(cause).__name__)


def _copy(state: Any) -> Any:
    """A deep copy of a state, tensors cloned."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    return [_copy(value) for value in state] if isinstance(state, list) else state
