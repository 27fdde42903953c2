"""Choices: the log-probabilities that the model itself gives to each option, whatever they are batched with."""

import numpy as np
import pytest
import torch

from align.config import Model
from align.errors import CheckError
from align.generate.choices import choose
from align.generate.hf import HFGenerator
from align.models.logprobs import LanguageModel
from align.models.policy import load_policy
from align.records import Message

QUESTIONS = [(Message("user", text),) for text in ("A or B?", "Which of the two is the better one, A or B?", "?")]


@pytest.fixture(scope="module")
def policy(tiny, byte_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny("llama").save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return load_policy(Model(path=str(folder), template="plain"))


@pytest.mark.parametrize("max_tokens", [24, 64, 1024])
@pytest.mark.parametrize("layout", ["plain", "tree"])
def test_options_have_the_models_own_log_probs(policy, layout, max_tokens):
    options = [" A", " B", " neither"]
    found = choose(policy, QUESTIONS, options, max_tokens, layout)
    for question, row in zip(QUESTIONS, found, strict=True):
        prompt = policy.chat.prompt(question)
        expected = []
        for option in options:
            answer = policy.tokenizer.encode(option, add_special_tokens=False)
            with torch.no_grad():
                logits = policy.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            expected.append(float(logits.log_softmax(-1)[range(len(answer)), answer].sum()))
        assert np.allclose(row, np.array(expected) - np.logaddexp.reduce(expected), atol=1e-5)
    assert np.allclose(np.exp(found).sum(1), 1)


def test_shared_beginnings_are_computed_once(policy, monkeypatch):
    computed = []
    forward = LanguageModel.forward
    monkeypatch.setattr(
        LanguageModel, "forward", lambda self, batch: computed.append(batch.tokens) or forward(self, batch)
    )
    asked = [(Message("user", "The same long story before each question. " + end),) for end in ("Is it A?", "Is it B?")]
    generator = HFGenerator(policy, max_tokens=1024)
    shared = generator.choose(asked, ["A", "B"])
    alone = choose(policy, asked, ["A", "B"], 1024, "plain")
    assert np.allclose(shared, alone, atol=1e-5)
    # A byte is a token: the prompt's beginning once, then "A?" or "B?" with what the template writes, and " " of " A".
    beginning = len(policy.chat.prompt(asked[0])) - len("A?\n\nAssistant:")
    assert computed[-2] == beginning + 2 * len("A?\n\nAssistant: ")
    assert computed[-1] == 4 * (beginning + len("A?\n\nAssistant: A"))


def test_options_that_are_the_same_tokens_are_refused(policy):
    with pytest.raises(CheckError, match="not all different"):
        HFGenerator(policy).choose(QUESTIONS, ["A", "A"])


def test_a_question_beyond_the_context_is_not_guessed_at(policy):
    questions = [QUESTIONS[0], (Message("user", "A or B? " * 40),), QUESTIONS[1]]
    found = HFGenerator(policy, max_tokens=64).choose(questions, ["A", "B"])
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()
    np.testing.assert_allclose(found[[0, 2]], HFGenerator(policy).choose(QUESTIONS[:2], ["A", "B"]), atol=1e-5)
    assert np.isnan(HFGenerator(policy).choose(questions[1:2], ["A", "B"])).all()
