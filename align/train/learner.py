"""The learner: devices, ranks, precision, accumulation and clipping around one `update(objective, trees)`.

One update is exactly the trees it is given. They are cut into micro-batches that fit `machine.max_tokens`; objectives
return sums and counts; gradients of the sums are added up and divided once by the count of the whole step over all
micro-batches and ranks. So 1x8 = 8x1 = any mixture, and two ranks make the step that one would.

Every step seeds its own random numbers from (seed, step): a resumed run needs no saved generator state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from align.config import Optim
from align.data.tree import Batch, Layout, Tree, collate
from align.errors import DependencyError, TrainingError
from align.machine import Machine
from align.stage import seed_of
from align.train.batching import deal, microbatches, token_budget
from align.train.objectives import Loss, Objective

EXPERT = re.compile(r"\.experts\.\d+\.")
MOVED_BY = 3
"""By this many updates with a learning rate above 0, every trainable tensor must have moved."""


def accelerator(machine: Machine, dtype: str = "float32", folder: Path | None = None) -> Accelerator:
    """Accelerate's view of this process, in the precision that a policy of this dtype trains in.

    Weights that train are float32; bfloat16 policies compute under autocast. Trackers write into `folder`.
    """
    AcceleratorState._reset_state()  # a warm worker runs stages of different precision in turn,
    GradientState._reset_state()  # and one of another trainer may have died between two steps
    return Accelerator(
        mixed_precision="bf16" if dtype == "bfloat16" else "no",
        cpu=uses_cpu(machine),
        log_with=list(machine.track) or None,
        project_dir=folder,
    )


def uses_cpu(machine: Machine) -> bool:
    """Whether models run on the CPU; accelerate by itself would take any accelerator there is.

    Raises DependencyError for `device: cuda` where there is none.
    """
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise DependencyError("machine.device is cuda, but torch finds no CUDA device here")
    return machine.device == "cpu" or not torch.cuda.is_available()


def schedule(optim: Optim, step: int, steps: int) -> float:
    """The share of the peak learning rate at 0-based `step`: linear warm-up, then constant, linear or cosine decay."""
    warm = round(optim.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    if optim.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, steps - warm)
    left = 1.0 - done if optim.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return optim.final_lr + (1 - optim.final_lr) * left


class Learner:
    """One module whose `forward` takes a `Batch`, its optimizer, and the step that it is at."""

    def __init__(
        self,
        module: nn.Module,
        optim: Optim,
        *,
        lr: float,
        steps: int,
        accelerator: Accelerator,
        machine: Machine,
        layout: Layout = "tree",
        pad: int = 0,
        seed: int = 0,
        rates: Mapping[str, float] | None = None,
    ):
        """rates: learning rates of parts of their own, by a component of their parameters' names such as `critic`;
        each part is clipped by itself."""
        self.optim, self.lr, self.steps, self.accelerator, self.machine = optim, lr, steps, accelerator, machine
        self.layout: Layout = layout
        self.pad, self.seed, self.step = pad, seed, 0
        self.tokens = token_budget(machine, accelerator.device)
        self.trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self.trainable:
            raise TrainingError("nothing to train: every parameter is frozen")
        self._groups = _grouped(self.trainable, lr, rates or {})
        self.module, self.optimizer = accelerator.prepare(module, self._adamw())
        self._start: dict[str, Tensor] | None = {name: _fingerprint(p) for name, p in self.trainable.items()}
        self._moves = 0
        self.unrouted: list[str] = []
        """Experts that no token of the first updates went to."""

    def update(
        self, objective: Objective, trees: Sequence[Tree], beside: tuple[Objective, Sequence[Tree]] | None = None
    ) -> dict[str, float]:
        """One optimizer step on these trees: its metrics, averaged over the whole step.

        beside: a further term with trees of its own, which counts nothing: its sum is added to the other's.

        Raises TrainingError, before the weights change, if a loss or the gradient is not finite; and when some
        trainable tensor has not moved after three updates.
        """
        terms = [*([beside] if beside else []), (objective, trees)]
        share = schedule(self.optim, self.step, self.steps)
        rate = self.lr * share
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share
        work = [(rows, self.backward(term, rows, last=term is objective)) for term, rows in terms]
        sums = [_summed(losses, self.accelerator) for _, losses in work]
        self._divide_gradients(sums[-1][1])
        norm = torch.stack([self._clip(part) for _, part in self._groups]).norm()
        *told, norm = torch.cat([*sums, norm[None]]).tolist()  # the only wait of a step for its device
        names = [name for _, losses in work for name in _names(losses)]
        step = dict(zip(names, told, strict=True))
        step["total"] = sum(value for name, value in zip(names, told, strict=True) if name == "total")
        metrics = _means(step) | {"grad_norm": norm, "lr": rate}
        if not (math.isfinite(metrics["loss"]) and math.isfinite(norm)):
            raise TrainingError(self._nan(work, metrics))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._check_moved(rate)
        return metrics

    def backward(self, objective: Objective, trees: Sequence[Tree], last: bool = True) -> list[Loss]:
        """Adds the gradients of the summed loss of these trees, in micro-batches; this rank's losses, detached.

        last: whether no more gradients will be added, so that ranks exchange them.
        """
        self.module.train()
        torch.manual_seed(seed_of(self.seed, "step", self.step, self.accelerator.process_index))
        parts = self._parts(trees)
        losses = []
        for i, (rows, weight) in enumerate(parts):
            batch = self._batch(rows)
            with nullcontext() if last and i == len(parts) - 1 else self.accelerator.no_sync(self.module):
                loss = objective(self.module, batch)
                self.accelerator.backward(loss.total * weight)
            losses.append(loss.detached(weight))
        return losses

    @torch.no_grad()
    def evaluate(self, objective: Objective, trees: Sequence[Tree]) -> dict[str, float]:
        """Metrics of these trees, averaged over all of them, without a step."""
        self.module.eval()
        losses = []
        for rows, weight in self._parts(trees):
            batch = self._batch(rows)
            losses.append(objective(self.module, batch).detached(weight))
        return _means(dict(zip(_names(losses), _summed(losses, self.accelerator).tolist(), strict=True)))

    def rehearse(self, objective: Objective, trees: Sequence[Tree]) -> None:
        """Forward and backward of the longest of these micro-batches, thrown away: if memory is short, it shows now."""
        self.backward(objective, self._parts(trees)[0].trees, last=False)
        self.optimizer.zero_grad(set_to_none=True)

    def _parts(self, trees: Sequence[Tree]):
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        return deal(microbatches(trees, self.tokens, self.layout), rank, ranks)

    def _batch(self, rows: Sequence[Tree]) -> Batch:
        return collate(rows, self.layout, self.pad, self.tokens).to(self.accelerator.device)

    def _adamw(self) -> torch.optim.AdamW:
        """Sets `_peaks` beside the groups: the peak learning rate of each."""
        groups = [
            {"params": [p for p in part if (p.ndim > 1) == decays], "weight_decay": decay, "lr": lr}
            for lr, part in self._groups
            for decays, decay in ((True, self.optim.weight_decay), (False, 0.0))
        ]
        groups = [group for group in groups if group["params"]]
        self._peaks = [group["lr"] for group in groups]
        return torch.optim.AdamW(groups, betas=self.optim.betas, eps=self.optim.eps, fused=True)

    def _clip(self, part: list[nn.Parameter]) -> Tensor:
        """The norm of the gradient before it is clipped."""
        return cast(Tensor, self.accelerator.clip_grad_norm_(part, self.optim.max_grad_norm)).double()

    def _divide_gradients(self, count: Tensor) -> None:
        """Turns the gradient of a sum into that of a mean; ranks' gradients arrive averaged, so they are summed too."""
        factor = self.accelerator.num_processes / count.clamp_min(1e-12)
        for p in self.trainable.values():
            if p.grad is not None:
                p.grad.mul_(factor)

    def _nan(self, work: Sequence[tuple[Sequence[Tree], list[Loss]]], metrics: dict[str, float]) -> str:
        pairs = [zip(self._parts(trees), losses, strict=True) for trees, losses in work]
        bad = [t.id for pair in pairs for part, loss in pair if not loss.total.isfinite() for t in part.trees]
        rank = f" of rank {self.accelerator.process_index}" if self.accelerator.num_processes > 1 else ""
        rows = ", ".join(bad[:16]) or f"none{rank} alone: the gradient overflowed, or it was another rank's"
        return (
            f"step {self.step + 1}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}. The weights are as "
            f"after the step before. Rows of the micro-batches that are not finite: {rows}"
        )

    def _check_moved(self, rate: float) -> None:
        """Refuses a training that changes nothing: masked labels, cut gradients, updates lost to rounding."""
        if self._start is None or rate == 0:
            return
        self._moves += 1
        if self._moves < MOVED_BY:
            return
        still = [name for name, p in self.trainable.items() if torch.equal(_fingerprint(p), self._start[name])]
        self._start = None
        self.unrouted = [name for name in still if EXPERT.search(name)]
        fatal = [name for name in still if name not in self.unrouted]
        if fatal:
            raise TrainingError(
                f"after {MOVED_BY} updates at learning rate {rate:.1e}, {len(fatal)} of {len(self.trainable)} tensors "
                f"have not moved: {', '.join(fatal[:5])}. Their gradients are cut off, or the updates are "
                f"smaller than the rounding of {next(iter(self.trainable.values())).dtype}"
            )

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; all ranks get the same answer."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum"))

    def track(self, metrics: dict[str, float]) -> None:
        """Sends metrics to the trackers of the machine settings, if there are any."""
        if self.machine.track:
            self.accelerator.log(metrics, step=self.step)

    def resume(self, step: int) -> None:
        """Goes on after `step` updates, with the weights and the optimizer already loaded."""
        self.step, self._start = step, None


def _grouped(
    named: Mapping[str, nn.Parameter], lr: float, rates: Mapping[str, float]
) -> list[tuple[float, list[nn.Parameter]]]:
    """(learning rate, parameters) of each part; what belongs to none comes first."""
    owner = {name: next((part for part in rates if part in name.split(".")), None) for name in named}
    parts = [(rates[part] if part else lr, part) for part in (None, *rates)]
    made = [(rate, [p for name, p in named.items() if owner[name] == part]) for rate, part in parts]
    return [(rate, part) for rate, part in made if part]


def _fingerprint(p: Tensor) -> Tensor:
    still = p.detach()
    return torch.stack([still.sum(dtype=torch.float64), torch.linalg.vector_norm(still, dtype=torch.float64)])


def _summed(losses: Sequence[Loss], accelerator: Accelerator) -> Tensor:
    """Sums over micro-batches and ranks, in the order of `_names`."""
    sums = torch.stack([loss.flat() for loss in losses]).sum(0)
    return cast(Tensor, accelerator.reduce(sums, "sum")) if accelerator.num_processes > 1 else sums


def _names(losses: Sequence[Loss]) -> list[str]:
    """`total`, `count`, and `name`, `name/count` of each metric."""
    return ["total", "count"] + [key for name in losses[0].metrics for key in (name, f"{name}/count")]


def _means(sums: dict[str, float]) -> dict[str, float]:
    means = {"loss": sums["total"] / sums["count"] if sums["count"] else math.nan}
    for name, value in sums.items():
        if f"{name}/count" in sums:
            means[name] = value / sums[f"{name}/count"] if sums[f"{name}/count"] else 0.0
    return means
