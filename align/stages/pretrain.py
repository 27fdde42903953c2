"""Pretraining, from scratch or continued."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from align.config import Config
from align.records import Text
from align.stage import Context, PolicyRef
from align.train.fields import Training

if TYPE_CHECKING:
    from align.models.policy import Policy
    from align.models.preview import Preview


class Tokenizer(Config):
    """A tokenizer to be made from the training text."""

    kind: Literal["words", "bpe", "bytes"] = "bpe"
    """`words`: a token a word or mark, for tiny worlds; `bpe`: byte-level pairs, for any text; `bytes`: 256 of them."""
    vocabulary: int = Field(default=8192, gt=0)
    """At most so many tokens, the special ones included."""


class Pretrain(Training):
    """Next-token training on raw text: a small model from scratch, or a policy further."""

    name = "pretrain"
    makes = "policy"
    reads = Text
    usual_lr = 1e-3
    dropout = True

    policy: PolicyRef | None = None
    """The model to train further; none means from scratch, by `model` and `tokenizer`."""
    model: dict[str, str | int | float | bool] | None = None
    """From scratch: `architecture` (llama, gpt2, ...) and sizes of its transformers config, such as `hidden_size`."""
    tokenizer: Tokenizer | None = None
    """From scratch: the tokenizer to make."""
    template: Literal["plain", "raw"] | Path | None = None
    """From scratch: the chat template of later stages, `plain`, `raw` or a jinja file; none means `plain`."""

    @model_validator(mode="after")
    def _scratch_or_further(self) -> Pretrain:
        scratch = [name for name in ("model", "tokenizer", "template") if getattr(self, name) is not None]
        if self.policy is not None and scratch:
            raise ValueError(f"{scratch[0]} is for training from scratch and has no effect with policy: remove one")
        if self.policy is None and self.model is None:
            raise ValueError("give policy: to train one further, or model: to train one from scratch")
        if self.policy is None and (self.lora or self.adapter != "new"):
            raise ValueError("a model from scratch has no frozen weights: remove lora and adapter")
        return self

    def check(self, ctx: Context) -> dict[str, Any]:
        from align.train.preflight import figures_of, preflight

        if self.policy is not None:
            return preflight(ctx, self, self.policy)[0]
        return figures_of(ctx, self, self.preview(ctx))[0]

    def preview(self, ctx: Context) -> Preview:
        from align.models.preview import Preview

        if self.policy is not None:
            return super().preview(ctx)
        made = self._scratch(ctx)
        return Preview(made.model, made.tokenizer, made.contract)

    def run(self, ctx: Context) -> dict[str, float]:
        from align.models.logprobs import LanguageModel
        from align.train.objectives import next_token
        from align.train.session import Session, trainable_policy

        policy = self._scratch(ctx) if self.policy is None else trainable_policy(ctx, self, self.policy)
        session = Session.of(ctx, self, policy)
        metrics = session.train(LanguageModel(policy.model), next_token)
        session.save()
        return metrics

    def _scratch(self, ctx: Context) -> Policy:
        """The untrained model, with a tokenizer made from the training text."""
        from align.data import read
        from align.models.policy import from_scratch
        from align.models.tokenizers import train_tokenizer

        made = self.tokenizer or Tokenizer()
        texts = [record.text for record in read(ctx, self.data, Text)]
        tokenizer = train_tokenizer(texts, made.kind, made.vocabulary)
        assert self.model is not None  # the fields' validator saw to it
        template = (ctx.base / self.template).read_text() if isinstance(self.template, Path) else self.template
        return from_scratch(self.model, tokenizer, template=template or "plain", seed=ctx.seed_of("weights"))
