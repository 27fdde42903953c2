"""The bridge to TRL: each of its stable trainers as a stage, cached, resumable and comparable like any other.

TRL gets the policy's own tokenizer, template and end of replies, and only rows that fit, so it cuts none. Its
reference is the policy as the stage finds it: adapters that the policy arrives with are merged into its weights
first, so with `lora` the reference is those weights without the new adapter, and without it a copy of them.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue

from align.config import Lora
from align.data.columns import READS, Format, columns, whole
from align.data.fields import DataField
from align.errors import CheckError, ContractError, DependencyError, Interrupted, suggestion
from align.records import Message, Prompt
from align.rewards.base import RewardField
from align.stage import Context, PolicyRef, Stage
from align.train.fields import Checkpoint

if TYPE_CHECKING:
    from align.data.chat import Chat
    from align.models.contract import Contract
    from align.models.policy import Policy

USUAL: dict[str, Format] = {
    "SFTTrainer": "prompt-completion",
    "DPOTrainer": "prompt-chosen-rejected",
    "KTOTrainer": "unpaired",
    "GRPOTrainer": "prompt",
    "RLOOTrainer": "prompt",
    "DistillationTrainer": "prompt",
}
OURS = {
    "output_dir", "seed", "data_seed", "use_cpu", "bf16", "fp16", "gradient_checkpointing", "activation_checkpointing",
    "report_to", "logging_strategy", "logging_steps", "save_strategy", "save_steps", "save_total_limit",
    "resume_from_checkpoint", "push_to_hub", "do_train", "do_eval", "do_predict", "eval_strategy", "disable_tqdm",
}  # fmt: skip
"""Arguments that follow from the recipe, the policy and the machine settings."""
ENDING = "{% if messages and messages[-1]['role'] == 'assistant' %}{{ eos_token }}{% endif %}"


class TRL(Stage):
    """Train a policy with one of TRL's trainers, such as KTOTrainer; what it is called and takes, TRL's docs say."""

    name = "trl"
    makes = "policy"
    unkeyed = frozenset({"checkpoint"})

    policy: PolicyRef
    """The model to tune; also the reference of trainers that have one."""
    data: DataField
    """What to train on."""
    trainer: str
    """One of the installed TRL's stable trainers: SFTTrainer, DPOTrainer, KTOTrainer, GRPOTrainer, RLOOTrainer, ..."""
    args: dict[str, JsonValue] = Field({})
    """Fields of the trainer's config, such as `{learning_rate: 1.0e-6, beta: 0.1}`, checked by name before any work."""
    format: Literal["auto"] | Format = "auto"
    """The dataset columns that the trainer gets; auto means those that the trainer usually takes. `prompt-completion`
    trains on replies, `messages` on what the trainer makes of conversations."""
    lora: Lora | None = None
    """Train a low-rank adapter instead of all weights."""
    rewards: tuple[RewardField, ...] = ()
    """What scores the replies, for trainers that sample: each a `$reward`, a name or a block."""
    teacher: PolicyRef | None = None
    """The policy to learn from, for trainers that distil."""
    checkpoint: Checkpoint = Checkpoint()
    """How often training can be gone on with after a kill."""

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.models.loaded import check_handover, is_adapted
        from align.models.preview import preview

        config, source = self._config(ctx), ctx[self.policy]
        adapted = is_adapted(source, ctx.base)  # type: ignore[arg-type]
        check_handover(source, self.lora, "merge-first" if adapted else "new", ctx.base)  # type: ignore[arg-type]
        seen = preview(source, ctx.base, ctx.store)  # type: ignore[arg-type]
        positions = getattr(seen.model.config.get_text_config(), "max_position_embeddings", None)
        if positions and (getattr(config, "max_length", None) or 0) > positions:
            raise CheckError(f"args.max_length: more than the model's {positions} positions; set it to that or less")
        rows = self._rows(ctx, seen.chat, config)
        return {
            "rows": len(rows),
            "parameters": seen.parameters,
            "memory bytes": seen.training_bytes(self.lora, adapted=False),
            "bytes": seen.saved_bytes(self.lora, False, self.checkpoint.keep + 1),
        }

    def run(self, ctx: Context) -> dict[str, float]:
        from align.models.policy import load_policy
        from align.train.session import device_of
        from align.train.watch import Watch, newest

        source, device = ctx.checkpoint(self.policy), str(device_of(ctx.machine))
        policy = load_policy(source, base=ctx.base, store=ctx.store, device=device)
        beneath = policy.origin or {}
        if self.lora is None:
            policy.model.float()  # before adapters are merged, or the sum would be rounded
        if policy.adapters:
            policy.merge()
            beneath = {**beneath, "merge": True}
        watch = Watch(ctx, self.checkpoint)
        trainer = self._trainer(ctx, policy, watch)
        trainer.train(resume_from_checkpoint=newest(ctx))
        if watch.stopped:
            step, steps = trainer.state.global_step, trainer.state.max_steps
            raise Interrupted(signal.SIGINT, f"stopped after step {step} of {steps}; it is saved")
        self._save(ctx, policy, trainer.model, beneath)
        return watch.last | {"rows": float(len(trainer.train_dataset)), "steps": float(trainer.state.global_step)}

    def _config(self, ctx: Context, dtype: str = "float32") -> Any:
        """The trainer's config. Every argument is one that it has, and none is one that align sets."""
        from align.train.learner import accelerator
        from align.train.session import device_of

        trainer, config = door(self.trainer)
        known = {f.name for f in dataclasses.fields(config)}
        for name in self.args:
            if name in OURS or name.startswith("hub_"):
                raise CheckError(f"args.{name}: is set by the recipe, the policy or the machine settings; remove it")
            if name not in known:
                near = suggestion(name, known)
                raise DependencyError(f"args.{name}: {config.__name__} of {version()} has no such field.{near}")
        self._check_helpers(inspect.signature(trainer).parameters)
        accelerator(ctx.machine, dtype)  # forgets the precision of the stage before
        try:
            made = config(
                output_dir=str(ctx.work / "checkpoints"), seed=ctx.seed_of("train"), data_seed=ctx.seed_of("order"),
                use_cpu=device_of(ctx.machine).type == "cpu", bf16=dtype == "bfloat16", fp16=dtype == "float16",
                gradient_checkpointing=ctx.machine.checkpointing, report_to="none", push_to_hub=False,
                logging_strategy="steps", logging_steps=1, save_strategy="no", disable_tqdm=True, **self.args,
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise CheckError(f"args: {config.__name__} refuses them: {error}") from error
        made._n_gpu = min(made.n_gpu, 1)  # or several GPUs would each take a batch of that size
        return made

    def _check_helpers(self, parameters: Any) -> None:
        for field, parameter in (("rewards", "reward_funcs"), ("teacher", "teacher_model")):
            if bool(getattr(self, field)) != (parameter in parameters):
                does = "needs them" if parameter in parameters else "takes none"
                raise CheckError(f"{field}: {self.trainer} {does}")

    def _rows(self, ctx: Context, chat: Chat, config: Any) -> list[dict[str, Any]]:
        """The records as TRL's columns. Those that don't fit are left out and counted, as in align's own stages."""
        from align.data import read
        from align.data.tokens import fitting

        shape = USUAL.get(self.trainer) if self.format == "auto" else self.format
        if shape is None:
            raise CheckError(f"format: what {self.trainer} takes is not known here; say one of {', '.join(READS)}")
        records = read(ctx, self.data, READS[shape])
        if shape != "prompt":
            records = [whole(record) for record in records]
            limit = getattr(config, "max_length", None) or 2**31
            records, account = fitting(records, chat, limit, store=ctx.store)
            if account.reasons:
                ctx.note(str(account))
        return [row for record in records for row in columns(record, shape)]

    def _trainer(self, ctx: Context, policy: Policy, watch: Any) -> Any:
        from datasets import Dataset

        cls, _ = door(self.trainer)
        takes = inspect.signature(cls).parameters
        config = self._config(ctx, policy.contract.dtype)
        rows = self._rows(ctx, policy.chat, config)
        more: dict[str, Any] = {}
        if self.lora is not None:
            more["peft_config"] = policy.adapters.config(self.lora)
        else:
            policy.model.requires_grad_(True)
            if "ref_model" in takes:
                more["ref_model"] = copy.deepcopy(policy.model).requires_grad_(False)
        if self.rewards:
            more["reward_funcs"] = [scorer(wanted, ctx) for wanted in self.rewards]
        if self.teacher is not None:
            more["teacher_model"] = self._teacher(ctx, policy)
        trainer = cls(
            model=policy.model, args=config, train_dataset=Dataset.from_list(rows), callbacks=[watch],
            processing_class=tokenizer(policy), **more,
        )  # fmt: skip
        if self.lora is None and "ref_model" not in takes and getattr(trainer, "ref_model", None) is not None:
            # These load one by the name in the model's config, which may be that of another ancestor.
            reference = trainer.accelerator.unwrap_model(trainer.ref_model)
            reference.load_state_dict(policy.model.state_dict())
        check_ends(trainer.train_dataset, policy.contract)
        return trainer

    def _teacher(self, ctx: Context, policy: Policy) -> Any:
        from align.models.policy import load_policy

        assert self.teacher is not None
        source, device = ctx.checkpoint(self.teacher), str(policy.model.device)
        teacher = load_policy(source, base=ctx.base, store=ctx.store, device=device)
        if teacher.contract.tokenizer != policy.contract.tokenizer:
            raise ContractError(f"teacher: {self.teacher} has another tokenizer than the policy")
        return teacher.model

    def _save(self, ctx: Context, policy: Policy, trained: Any, beneath: dict[str, Any]) -> None:
        """The policy's weights were trained in place; an adapter is taken out of TRL's hands and put on top again."""
        if self.lora is not None:
            trained.save_pretrained(str(ctx.work / "adapter"))
            trained.unload()
            policy.own, policy.beneath = policy.adapters.load(ctx.work / "adapter"), beneath
        policy.model.eval()
        policy.save(ctx.out, ctx.stage)


def door(trainer: str) -> tuple[type, type]:
    """A stable trainer of the installed TRL and its config, by the trainer's name. The one door to trainers."""
    try:
        import trl
    except ImportError as error:
        raise DependencyError(f"trl is not installed ({error}); pip install trl") from None
    trainers = [name for name in dir(trl) if name.endswith("Trainer") and name != "RewardTrainer"]
    if trainer == "RewardTrainer":
        raise CheckError("trainer: RewardTrainer makes a reward model, no policy; use `stage: reward_model`")
    if trainer not in trainers:
        raise DependencyError(f"trainer: {version()} has no {trainer!r}.{suggestion(trainer, trainers)}")
    config = trainer.removesuffix("Trainer") + "Config"
    if not hasattr(trl, config):
        raise DependencyError(f"trainer: {version()} has a {trainer} but no {config}; align is tested with trl 1.16")
    return getattr(trl, trainer), getattr(trl, config)


def version() -> str:
    """`trl 1.16.0`, as installed."""
    import trl

    return f"trl {trl.__version__}"


def tokenizer(policy: Policy) -> Any:
    """The policy's tokenizer for TRL: with its template as jinja text, and the end that the policy knows as EOS."""
    from align.data.chat import DATE, TEMPLATES

    chat, made = policy.chat, copy.deepcopy(policy.tokenizer)
    made.eos_token = str(made.convert_ids_to_tokens(policy.contract.stop[0]))
    fixed = {"date_string": DATE}
    if policy.contract.template in TEMPLATES:
        fixed["bos_token"] = "" if policy.contract.bos is None else str(made.convert_ids_to_tokens(policy.contract.bos))
    head = "".join(f"{{% set {name} = {json.dumps(value, ensure_ascii=False)} %}}" for name, value in fixed.items())
    spoken = (Message("user", "Hello"), Message("assistant", "Hello"))
    made.chat_template = head + chat.template + (ENDING if chat.pieces(spoken)[-1].stop else "")
    return made


def scorer(wanted: Any, ctx: Context) -> Callable[..., list[float]]:
    """A reward as TRL calls it: (prompts, completions, further columns) -> scores, higher being better."""
    from align.records import messages
    from align.rewards.base import load

    reward = load(wanted, ctx)
    if reward.better is None:
        raise CheckError(f"reward {reward.name!r} calls no score better; write `better: higher` or `better: lower`")
    sign = -1 if reward.better == "lower" else 1

    def score(prompts: Any, completions: Any, id: list[str], extra: list[str], **_: Any) -> list[float]:
        asked = [Prompt(i, messages(p), json.loads(e)) for i, p, e in zip(id, prompts, extra, strict=True)]
        return [sign * s for s in reward(asked, [completion[-1]["content"] for completion in completions])]

    score.__name__ = reward.name
    return score


def check_ends(dataset: Any, contract: Contract) -> None:
    """Raises ContractError unless every reply that TRL trains on has its end: the model would never learn to stop."""
    stop = set(contract.stop)
    for name in {"completion_ids", "chosen_ids", "rejected_ids"} & set(dataset.column_names):
        missing = sum(not stop & set(ids) for ids in dataset[name])
        if missing:
            raise ContractError(f"TRL's {name} lack the stop id in {missing} of {len(dataset)} rows")
