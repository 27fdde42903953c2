"""Reward models from outside, by the scores that transformers itself gives."""

import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from align.config import Data, Endpoint
from align.errors import DataError
from align.machine import Machine
from align.records import Message, Prompt
from align.rewards.base import RewardSpec, load
from align.stage import Context, RewardRef
from align.store import Store

WORDS = ("<unk>", "<s>", "</s>", "<pad>", "User:", "Assistant:", "the", "cat", "sat", "ran", "off", "good", "bad")
PROMPTS = [Prompt(text, (Message("user", text),)) for text in ("the cat", "the cat sat off the cat", "good")]
REPLIES = ["sat", "ran off", ""]
NOTES: list[str] = []


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A folder with a tiny sequence classifier of random weights, as others would publish it."""
    folder = tmp_path_factory.mktemp("judge")
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=24, num_labels=1, initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def scorer(judge, template="plain", **machine):
    context = SimpleNamespace(
        base=judge.parent, store=None, stage="it", machine=Machine(device="cpu", **machine), note=NOTES.append
    )
    spec = RewardSpec.model_validate({"model": {"path": judge.name, "template": template}, "name": "judge"})
    return load(spec, context)


def test_scores_are_those_of_the_classifier_read_at_the_end_of_the_reply(judge):
    scored = scorer(judge)
    assert (scored.name, scored.better) == ("judge", "higher")
    classifier = LlamaForSequenceClassification.from_pretrained(judge).eval()
    for prompt, reply, found in zip(PROMPTS, REPLIES, scored(PROMPTS, REPLIES), strict=True):
        text = f"User: {prompt.prompt[0].content} Assistant: {reply} </s>"
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.no_grad():
            assert found == pytest.approx(classifier(ids).logits.item(), abs=1e-5)


def test_a_score_does_not_depend_on_what_is_scored_beside_it(judge):
    together = scorer(judge)(PROMPTS, REPLIES)
    alone = [scorer(judge, max_tokens=16)([p], [r])[0] for p, r in zip(PROMPTS, REPLIES, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 3) for score in together}) == 3


def test_a_reply_that_the_template_rewrites_is_scored_as_it_stands(judge):
    """Policies write anything: one `off` too many, which this template leaves out with all before it, ends no run."""
    written = "{{ m['content'].split('off') | last }}"
    turn = f"{{{{ m['role'] | capitalize }}}}: {written}{{% if m['role'] == 'assistant' %}} </s>{{% endif %}} "
    ask = "{% if add_generation_prompt %}Assistant: {% endif %}"
    (judge.parent / "thoughts.jinja").write_text(f"{{% for m in messages %}}{turn}{{% endfor %}}{ask}")
    found = scorer(judge, "thoughts.jinja")([PROMPTS[0]] * 2, ["ran off sat", "sat"])
    classifier = LlamaForSequenceClassification.from_pretrained(judge).eval()
    for reply, score in zip(("ran off sat", "sat"), found, strict=True):
        ids = [[WORDS.index(word) for word in f"User: the cat Assistant: {reply} </s>".split()]]
        with torch.no_grad():
            assert score == pytest.approx(classifier(torch.tensor(ids)).logits.item(), abs=1e-5)


def test_a_reply_that_the_model_cannot_read_gets_no_score_and_is_told(judge):
    NOTES.clear()
    alone = scorer(judge)(PROMPTS[:1], REPLIES[:1])
    scores = scorer(judge)([PROMPTS[2], PROMPTS[0]], ["cat " * 30, REPLIES[0]])
    assert math.isnan(scores[0]) and scores[1:] == pytest.approx(alone, abs=1e-5)
    assert NOTES == [
        "judge reads at most 24 tokens: 1 of 2 replies, with their prompts, have more and get no score, such as one to "
        "prompt good"
    ]


@pytest.mark.parametrize(
    ("entry", "what"),
    [(Data(path="x"), "a dataset"), (Endpoint(endpoint="http://x/v1", name="x"), "a model behind a server")],
)
def test_what_has_no_weights_is_no_reward_model(entry, what, tmp_path):
    ctx = Context(
        stage="it", type="sample", key="", seed=0, inputs={"it": entry}, keys={}, store=Store(tmp_path),
        machine=Machine(), work=tmp_path, out=tmp_path,
    )  # fmt: skip
    with pytest.raises(DataError, match=f"stages.it: 'it' is {what}; weights are needed"):
        load(RewardRef("it"), ctx)
