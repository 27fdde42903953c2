"""From a reference of a recipe, or a policy in this process, to whoever writes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from align.config import Endpoint
from align.errors import DependencyError
from align.generate.base import Generator
from align.machine import Machine
from align.stage import Context, Reference

if TYPE_CHECKING:
    from align.models.policy import Policy


def load_generator(ctx: Context, reference: Reference, keep: bool = False) -> Generator:
    """The generator that a reference stands for, its model loaded, or its server ready to be asked.

    keep: prompts will go on from those of the call before, so what was computed of them is worth its memory.
    """
    source = ctx[reference]
    if isinstance(source, Endpoint):
        from align.generate.endpoint import EndpointGenerator

        return EndpointGenerator(source, ctx.store, reference.name, ctx.note)
    from align.models.policy import load_policy

    policy = load_policy(ctx.checkpoint(reference), base=ctx.base, store=ctx.store, device=ctx.machine.device)
    return generator_of(policy, ctx.machine, keep)


def generator_of(policy: Policy, machine: Machine, keep: bool = False) -> Generator:
    """Whoever writes for a loaded policy, as the machine settings choose. keep: as in `load_generator`."""
    from align.generate.hf import HFGenerator
    from align.train.batching import token_budget

    device, quantized = policy.model.device, bool(policy.contract.quantize)
    kind, budget = chosen(machine, device.type == "cuda", quantized), token_budget(machine, device)
    if kind == "vllm":
        from align.generate.vllm import VLLMGenerator

        return VLLMGenerator(policy, machine.vllm_memory, machine.sample_batch, budget)
    if kind == "continuous":
        from align.generate.continuous import ContinuousGenerator

        return ContinuousGenerator(policy, machine.sample_batch, budget)
    return HFGenerator(policy, machine.sample_batch, budget, keep)


def chosen(machine: Machine, cuda: bool, quantized: bool = False) -> Literal["hf", "continuous", "vllm"]:
    """Who writes on this machine. Raises DependencyError for vLLM where it can't."""
    able = cuda and find_spec("vllm") is not None
    if machine.generator == "auto":
        return "vllm" if able and not quantized else "hf"
    if machine.generator == "vllm" and not able:
        raise DependencyError("machine.generator is vllm, which needs a CUDA device and pip install 'align[vllm]'")
    return machine.generator
