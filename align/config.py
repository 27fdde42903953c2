"""The few blocks of a recipe that stages share. Each field's docstring is its documentation everywhere."""

from __future__ import annotations

import ast
import functools
import inspect
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import CoreSchema


class Config(BaseModel):
    """A frozen block of fields, each documented by the docstring beneath it; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        made = handler(schema)
        fields = handler.resolve_ref_schema(made)["properties"]
        for name, text in documentation(cls).items():
            fields[cls.model_fields[name].alias or name]["description"] = text
        return made


@functools.cache
def documentation(block: type[BaseModel]) -> dict[str, str]:
    """The docstring of each field that has one.

    Read from the source when somebody asks: pydantic's own `use_attribute_docstrings` parses every class at its import,
    a quarter of the time in which `align plan` answers.
    """
    found: dict[str, str] = {}
    for cls in reversed(block.__mro__):
        if issubclass(cls, Config) and cls.model_fields:
            found |= _docstrings(cls)
    return {name: found[name] for name in block.model_fields if name in found}


def _docstrings(cls: type[Config]) -> dict[str, str]:
    """The text beneath each annotated name of a class's own body."""
    source = inspect.getsource(cls)
    tree = ast.parse(f"if True:\n{source}" if source[0].isspace() else source)
    body = next(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


class Model(Config):
    """A checkpoint from outside the recipe: an entry of `models:`."""

    path: str
    """A local folder (relative to the recipe) or a hub name such as `HuggingFaceTB/SmolLM2-135M`."""
    revision: str = "main"
    """Branch, tag or commit on the hub. Keys use the commit it resolves to."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights and of the computation."""
    template: str | None = None
    """Chat template: none for the model's own, `plain` or `raw` for base models, or a path to a jinja file."""
    stop: tuple[str, ...] = ()
    """Further texts of single tokens that end a reply, such as `<|im_end|>`; the model's own end tokens always do."""
    quantize: Literal["4bit"] | None = None
    """Load frozen weights in 4 bits for QLoRA; needs bitsandbytes and a GPU."""


class Budget(Config):
    """What may be asked of a server in one run of a stage. Answers kept from an earlier run cost nothing."""

    requests: int | None = Field(default=None, gt=0)
    """Requests, retries included."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens read and written, by what the server says; the requests under way may go beyond."""
    cost: float | None = Field(default=None, gt=0)
    """By `price`, likewise."""


class Price(Config):
    """What a server asks for, in any currency."""

    input: float = Field(ge=0)
    """A million tokens read."""
    output: float = Field(ge=0)
    """A million tokens written."""


class Endpoint(Config):
    """A model behind an OpenAI-compatible server (vLLM, SGLang, a hosted API): another kind of entry of `models:`.

    It writes and judges; nothing is trained from it.
    """

    endpoint: str = Field(pattern=r"^https?://[^@?#]+$")
    """Address of the API, such as `http://localhost:8000/v1`."""
    name: str
    """What the server calls the model."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the API's key, if it wants one. No key is ever written to disk."""
    concurrency: int = Field(default=8, gt=0)
    """Requests under way at once."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds without a sign of the server after which a request is made again."""
    options: dict[str, Any] = {}
    """Further fields of every request, such as `{chat_template_kwargs: {enable_thinking: false}}` for Qwen3; null takes
    one away."""
    budget: Budget = Budget()
    """Where to stop."""
    price: Price | None = None
    """For showing what it cost."""

    @model_validator(mode="after")
    def _priced(self) -> Endpoint:
        if self.budget.cost is not None and self.price is None:
            raise ValueError("budget.cost needs price: {input, output}, for a million tokens")
        return self


class Data(Config):
    """A dataset from outside the recipe: an entry of `data:`."""

    path: str
    """A hub name, a file (json, jsonl, csv, tsv, parquet, txt, each also .gz; .zip with `member`), a folder, or
    `toy` for the generated toy world."""
    format: str | None = None
    """Name of the row format (`align stages formats` lists them); none means: recognise it by its columns."""
    columns: dict[str, str] = {}
    """Renames columns before the format is read: `{response: answer}` reads column `answer` as `response`."""
    split: str | None = None
    """Split of a hub dataset or folder, such as `train_sft`."""
    config: str | None = None
    """Configuration (subset) of a hub dataset."""
    data_dir: str | None = None
    """Sub-folder of a hub dataset."""
    revision: str = "main"
    """Branch, tag or commit on the hub."""
    member: str | None = None
    """File inside a zip."""
    encoding: str = "utf-8"
    """Text encoding of local files."""
    part: tuple[float, float] = (0.0, 1.0)
    """The share of the rows to take, by a seeded hash of their prompt: `[0.0, 0.9]` and `[0.9, 1.0]` never overlap."""
    skip: int = Field(default=0, ge=0)
    """Leave out this many rows first, counted like those of `limit`: `limit: 9` and `skip: 9` share no row."""
    limit: int | None = Field(default=None, gt=0)
    """Take at most this many rows, after bad rows, filters, `part`, `deduplicate`, `shuffle` and `skip`."""
    shuffle: bool = False
    """Shuffle with the recipe's seed before `skip` and `limit`."""
    prompt_words: int | None = Field(default=None, gt=0)
    """Plain text only: the first so many words become the prompt and the rest the reply."""
    min_words: int = Field(default=0, ge=0)
    """Drop rows whose shortest reply (text; prompt, where there is neither) has fewer words."""
    max_words: int | None = Field(default=None, gt=0)
    """Drop rows whose longest reply (text; prompt, where there is neither) has more words."""
    deduplicate: bool = False
    """Keep one of identical rows."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`skip` counts bad rows and writes them to a quarantine file instead of stopping."""
    options: dict[str, str | int | float | bool] = {}
    """Further options of the format or generator. Text files: `separator` between rows (a line break by default) and
    `rejected`, a second file (or member) whose rows are worse than those of the first: pairs without a prompt."""


class Lora(Config):
    """Low-rank adapters (arXiv:2106.09685) by PEFT."""

    r: int = Field(default=16, gt=0)
    """Rank."""
    alpha: float | None = Field(default=None, gt=0)
    """Scale numerator; none means 2 r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; only sft and pretrain allow it above 0."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Module names that get adapters."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) (arXiv:2312.03732) instead of alpha / r."""


class Optim(Config):
    """AdamW with a schedule. One step is exactly `batch_size` examples, however they are cut to fit memory."""

    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate; not given, the stage's usual one, which is ten times higher with LoRA."""
    batch_size: int = Field(default=16, gt=0)
    """Examples of one optimizer step, over all processes."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Decay after warm-up; linear and cosine end at `final_lr` times the peak."""
    warmup: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0."""
    final_lr: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay rates."""
    eps: float = Field(default=1e-8, gt=0)
    """Adam's epsilon."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients of a step are scaled down to at most this norm."""


class Sampling(Config):
    """How replies are drawn."""

    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass; 1 keeps everything."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps everything."""
    max_new_tokens: int = Field(default=256, gt=0)
    """A reply that has not stopped by then ends with finish reason `length`."""
    n: int = Field(default=1, gt=0)
    """Replies a prompt."""
