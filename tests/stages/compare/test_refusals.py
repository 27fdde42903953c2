"""Stage `compare`: what it refuses, and what it leaves out and says so."""

from dataclasses import replace

import numpy as np
import pytest

from align.errors import CheckError
from align.evals.metrics import per_prompt
from align.evals.registry import METRICS, metric
from align.models.heads import load_reward
from align.models.policy import from_scratch
from align.stages.compare import Compare
from align.store import Artifact
from tests.stages.compare.conftest import FIELDS, run
from tests.stages.conftest import SIZES, tokenizer, with_contract


def test_another_template_is_refused_unless_asked_for(artifacts, prompts, context, tmp_path_factory):
    raw = with_contract(artifacts["tuned"], tmp_path_factory.mktemp("raw"), template="raw")
    inputs = artifacts | {"prompts": prompts, "tuned": raw}
    with pytest.raises(CheckError, match="'tuned' was made with another chat template than 'base'"):
        run(context(inputs))
    with pytest.raises(CheckError, match="'tuned' was made with another chat template than 'base'"):
        run(context(inputs), policies=["$base"], base="$tuned")
    found, _ = run(context(inputs), templates="own")
    assert found["settings"]["templates"] == "own"


def test_a_prompt_without_a_ready_answer_is_an_error(artifacts, prompts, rows, context):
    human = rows("human", {"prompt": "the", "completion": "cat"}, {"prompt": "the a", "completion": "dog"})
    ctx = context(artifacts | {"prompts": prompts, "human": human})
    with pytest.raises(CheckError, match=r"human: 10 of 12 prompts have no answer among its 2, such as .*'the a cat'"):
        Compare.model_validate(FIELDS | {"policies": ["$base", "$human"]}).check(ctx)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"best_of": [1, 2]}, "best_of: the best by which reward"),
        ({"best_of": [4], "rewards": ["length"]}, r"the best of 4 needs 4 replies a prompt; sampling\.n is 2"),
        ({"metrics": ["words"]}, "'words' is the name of another metric"),
        ({"metrics": ["self_repetiton"]}, "Did you mean 'self_repetition'"),
        ({"metrics": [{"metric": "pass_at", "options": {"k": 2}}]}, r"options: reward: Field required \(options of"),
        ({"brittleness": ["typo"]}, "no transformation is called 'typo'. Did you mean 'typos'"),
        ({"worth": {"lenght": 1.0}, "rewards": ["length"]}, "no metric is called 'lenght'. Did you mean 'length'"),
        ({"judges": [{"model": "$a"}, {"model": "$a", "text": "Kinder?"}]}, "'a' is the name of another metric"),
        ({"policies": []}, "at least 1"),
        ({"policies": ["$base", "$base"]}, r"\$base is there twice"),
        ({"rewards": ["length", "length"]}, "two rewards are called 'length'"),
        ({"rewards": [{"rule": "length", "name": "kl"}]}, "'kl' is the name of another metric"),
    ],
)
def test_what_the_recipe_may_not_say(fields, message):
    with pytest.raises(ValueError, match=message):
        Compare.model_validate(FIELDS | fields)


LONG = {
    "kind": "prompt", "id": "the-long-one", "prompt": [{"role": "user", "content": "cat " * 86}]
}  # fmt: skip


def test_a_prompt_that_leaves_no_room_is_asked_of_nobody_and_known_before_anything_is_sampled(artifacts, rows, context):
    asked = [LONG | {"id": str(i), "prompt": [{"role": "user", "content": "cat " * i}]} for i in range(1, 13)]
    inputs = artifacts | {"prompts": rows("asked", *asked, LONG)}
    ahead = {name: inputs.pop(name) for name in ("base", "tuned")}
    early = replace(context(inputs), forerunners=ahead)
    assert Compare.model_validate(FIELDS).check(early)["prompts"] == 12
    found, _ = run(context(inputs | ahead))
    assert found["settings"]["prompts"] == 12
    (note,) = (e["text"] for e in context.events if e["event"] == "note")
    assert found["notes"] == [note], "said once, and in the report too"
    assert note == (
        "1 of 13 prompts (7.7%) leave no room for 12 new tokens, such as prompt the-long-one has 88 tokens for base, "
        "whose context is 96; they are asked of nobody"
    )
    with pytest.raises(CheckError, match=r"the-long-one.*5.0% may be \(max_too_long\)"):
        Compare.model_validate(FIELDS | {"max_too_long": 0.05}).check(early)


def test_what_a_reward_model_could_not_read_is_not_asked_either(artifacts, prompts, context, tmp_path):
    from_scratch(SIZES | {"max_position_embeddings": 26}, tokenizer(), template="plain").save(tmp_path / "a", "narrow")
    load_reward(Artifact("policy", "narrow", tmp_path / "a"), train=True).save(tmp_path / "b", "narrow")
    inputs = artifacts | {"prompts": prompts, "narrow": Artifact("reward", "key-of-narrow", tmp_path / "b")}
    found, _ = run(context(inputs), rewards=["$narrow"], max_too_long=0.5)
    words = 26 - 12 - 1 - len(["User:", "Assistant:"])
    assert found["settings"]["prompts"] == words, "prompts have 1 to 12 words"


def test_one_prompt_compares_nothing(artifacts, rows, context):
    with pytest.raises(CheckError, match="at least 2 prompts"):
        run(context(artifacts | {"prompts": rows("one", {"prompt": "the cat"})}))


def test_a_metric_that_is_no_number_is_refused_by_name(artifacts, prompts, context):
    @metric("odd")
    def odd(samples):
        return per_prompt(samples, [np.nan if s.prompt[-1].content == "the a" else 1.0 for s in samples])

    try:
        with pytest.raises(CheckError, match=r"metric 'odd' is nan for 1 of 12 prompts, such as \w{16}: a metric"):
            run(context(artifacts | {"prompts": prompts}), metrics=["odd"])
    finally:
        METRICS.code.clear()
