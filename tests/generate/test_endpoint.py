"""Models behind a server, asked over real HTTP: nothing lost, nothing guessed, nothing paid for twice."""

import json
import os
import signal
import subprocess
import sys
import time
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from align.config import Endpoint, Model, Sampling
from align.data import write
from align.errors import CheckError, EndpointError, Interrupted
from align.generate import server as server_module
from align.generate.endpoint import EndpointGenerator, chosen
from align.generate.hf import HFGenerator
from align.models.policy import load_policy
from align.records import Message, Sample
from align.store import Store
from tests.generate.servers import echo, saying, serving, tiny_model

PROMPTS = [(Message("user", text),) for text in ("one", "two", "three", "four", "five", "six")]
SAMPLING = Sampling(max_new_tokens=6, temperature=0.7)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.01)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def policy(tiny, byte_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny("llama", tie_word_embeddings=False).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return load_policy(Model(path=str(folder), template="plain"))


def replies(generator, prompts=PROMPTS, seed=0, **sampling):
    made = generator.generate(prompts, SAMPLING.model_copy(update=sampling), seed)
    return [(c.prompt, c.index, c.text, c.finish) for c in made]


def test_a_served_model_replies_as_it_does_in_this_process(policy, store):
    local = HFGenerator(policy)
    with serving(tiny_model(local, policy)) as served:
        remote = EndpointGenerator(served.endpoint(), store, "judge")
        assert replies(remote, temperature=0.0) == replies(local, temperature=0.0)
        assert {c.tokens for c in remote.generate(PROMPTS, SAMPLING, 0)} == {10}, "what the server counted"


def test_half_a_character_is_no_text(store, tmp_path):
    """As JSON holds it where a server cut a reply in the middle of one. No file can, and the reply would be kept."""
    said = ["a \ud83d", "\ude00 b", "\ud83d\ude00"]
    with serving(lambda body: saying(said[int(body["messages"][-1]["content"])], "length")) as served:
        remote = EndpointGenerator(served.endpoint(), store, "judge")
        made = remote.generate([(Message("user", str(i)),) for i in range(3)], SAMPLING, 0)
    assert [c.text for c in made] == ["a \ufffd", "\ufffd b", "\U0001f600"]
    write([Sample(str(c.prompt), (), c.text, "judge") for c in made], tmp_path / "records.jsonl")


def test_options_have_the_served_models_log_probs(policy, store):
    questions = [(Message("user", f"{text}, A or B?"),) for text in ("This", "Is it", "What now")]
    with torch.no_grad():  # it says A or B, and hardly anything else
        ids = [torch.tensor([policy.chat.prompt(question)]) for question in questions]
        hidden = torch.stack([policy.model.model(input_ids=i).last_hidden_state[0, -1] for i in ids]).mean(0)
        a, b = policy.chat.tokenizer.convert_tokens_to_ids(["A", "B"])
        policy.model.lm_head.weight *= 0.1
        policy.model.lm_head.weight[[a, b]] += 9 * hidden / hidden.norm() ** 2
        logits = torch.stack([policy.model(input_ids=i).logits[0, -1] for i in ids])
    p = logits.double().softmax(-1)[:, [a, b]].numpy()
    assert (p.sum(1) > 0.9).all() and not np.allclose(p[:, 0], p[:, 1], atol=0.01)
    with serving(tiny_model(HFGenerator(policy), policy)) as served:
        found = EndpointGenerator(served.endpoint(), store, "judge").choose(questions, ["A", "B"])
    np.testing.assert_allclose(found, np.log(p / p.sum(1, keepdims=True)), atol=1e-5)


def test_each_reply_has_its_own_seed_and_the_settings_go_along(store):
    with serving(echo) as served:
        endpoint = served.endpoint(options={"reasoning_effort": "low", "temperature": None})
        made = replies(EndpointGenerator(endpoint, store, "judge"), PROMPTS[:2], n=3, top_p=0.9, top_k=5)
        assert len({text for _, _, text, _ in made}) == 6
        body = served.bodies[0]
        assert body == {
            "model": "tiny", "messages": [{"role": "user", "content": body["messages"][0]["content"]}],
            "max_tokens": 6, "top_p": 0.9, "top_k": 5, "seed": body["seed"], "reasoning_effort": "low",
        }  # fmt: skip
        again = EndpointGenerator(endpoint, Store(store.root / "other"), "judge")
        assert replies(again, PROMPTS[:2], n=3, top_p=0.9, top_k=5) == made, "seeds depend on prompt and index alone"


@pytest.mark.parametrize("trouble", ["cut", "busy", "broken", "garbage", "strange", "slow"])
def test_trouble_passes_and_nothing_is_lost(store, trouble):
    with serving(echo, lambda number: trouble if number % 3 else "fine") as served:
        generator = EndpointGenerator(served.endpoint(timeout=0.4, concurrency=3), store, "judge")
        made = generator.generate(PROMPTS, SAMPLING, 0)
        assert [c.text.split(" (")[0] for c in made] == [f"You said: {p[0].content}" for p in PROMPTS]
        assert [c.prompt for c in made] == list(range(6))
        assert generator.server.spent.answered == 6 and generator.server.spent.retried > 0
        assert generator.server.spent.sent == len(served.bodies)


def test_a_server_says_how_long_to_wait(store, monkeypatch):
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 30.0)
    with serving(echo, lambda number: "fine" if number else "busy") as served:
        start = time.monotonic()
        EndpointGenerator(served.endpoint(), store, "judge").generate(PROMPTS[:1], SAMPLING, 0)
        assert 0.2 <= time.monotonic() - start < 10


@pytest.mark.parametrize(("date", "low", "high"), [(-60, 0, 0), (60, 50, 61)])
def test_a_server_may_say_until_when_to_wait(date, low, high):
    from email.utils import formatdate

    import httpx2

    response = httpx2.Response(429, headers={"Retry-After": formatdate(time.time() + date, usegmt=True)})
    assert low <= server_module._retry_after(response) <= high


def test_answers_are_kept_and_paid_for_once(store):
    with serving(echo) as served:
        first = replies(EndpointGenerator(served.endpoint(), store, "judge"))
        again = EndpointGenerator(served.endpoint(concurrency=1), store, "another name")
        assert replies(again) == first and len(served.bodies) == 6
        assert (again.server.spent.sent, again.server.spent.cached) == (0, 6)
        assert replies(again, seed=1) != first and len(served.bodies) == 12
        again.choose([PROMPTS[0]] * 3, ["A", "B"])
        assert len(served.bodies) == 13, "the same question is asked once"


def test_a_server_that_stays_broken_is_an_error_and_what_was_answered_stays(store):
    with serving(echo, lambda number: "fine" if number < 4 else "broken") as served:
        generator = EndpointGenerator(served.endpoint(concurrency=1), store, "judge")
        with pytest.raises(
            EndpointError, match=r"judge: no answer .* in 7 attempts; the last: HTTP 503: .*bad gateway"
        ):
            replies(generator)
        served.mood = lambda number: "fine"
        sent = len(served.bodies)
        assert len(replies(generator)) == 6 and len(served.bodies) == sent + 2


def test_refusals_are_counted_and_never_guessed(store):
    def reply(body):
        text = body["messages"][-1]["content"]
        told = {"two": saying("B", "content_filter"), "three": saying("I would rather not say.")}
        told["four"] = {"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}
        return told.get(text, saying("(A)"))

    with serving(reply, lambda number: "refusing" if number == 4 else "fine") as served:
        notes = []
        generator = EndpointGenerator(served.endpoint(concurrency=1), store, "judge", notes.append)
        found = generator.choose(PROMPTS, ["A", "B"])
        assert served.bodies[4]["messages"][0]["content"] == "five"
    np.testing.assert_array_equal(found[0], [0, -np.inf])
    assert np.isnan(found[1:5]).all() and (found[5] == found[0]).all()
    assert "1 refused" in notes[-1] and "3 of 6 answers are none of A, B" in notes[-1]
    with serving(reply) as served:
        made = EndpointGenerator(served.endpoint(), store, "judge").generate(PROMPTS, SAMPLING, 0)
    assert [(c.text, c.finish) for c in made[1:4]] == [
        ("", "refused"),
        ("I would rather not say.", "stop"),
        ("", "refused"),
    ]


def test_a_request_that_is_always_refused_ends_early(store):
    prompts = [(Message("user", str(i)),) for i in range(100)]
    with serving(echo, lambda number: "refusing") as served:
        with pytest.raises(EndpointError, match="refuses every request: HTTP 400: content policy"):
            EndpointGenerator(served.endpoint(), store, "judge").generate(prompts, SAMPLING, 0)
        assert len(served.bodies) < 30


def test_a_server_without_log_probs_is_read_by_what_it_writes(store):
    with serving(lambda body: saying("**B**"), lambda number: "plain") as served:
        generator = EndpointGenerator(served.endpoint(), store, "judge")
        assert generator.choose(PROMPTS, ["A", "B"]).tolist() == [[-np.inf, 0.0]] * 6
        assert generator.server.spent.refused == 0 and len(served.bodies) == 7


def test_the_budget_ends_it_and_what_was_paid_for_stays(store):
    with serving(echo) as served:
        for budget, answered in (({"requests": 2}, 2), ({"tokens": 250}, 5), ({"cost": 0.001}, 6)):
            endpoint = served.endpoint(concurrency=1, budget=budget, price={"input": 10, "output": 50})
            generator = EndpointGenerator(endpoint, store, "judge")
            if answered < 6:
                with pytest.raises(EndpointError, match=r"the budget of .* is used up .*cost"):
                    replies(generator)
            else:
                assert len(replies(generator)) == 6
            assert len(served.bodies) == answered
        assert generator.server.spent.cost(endpoint) == pytest.approx((100 * 10 + 10 * 50) / 1e6)
        assert "cost 0.0015" in generator.server.said()
    with pytest.raises(ValueError, match=r"budget.cost needs price"):
        Endpoint(endpoint="http://x/v1", name="x", budget={"cost": 1})


def test_the_key_comes_from_the_environment_and_goes_to_the_server_alone(store, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with serving(echo, lambda number: "fine" if number == 0 else "locked") as served:
        endpoint = served.endpoint(key_variable="MY_KEY", concurrency=1)
        notes = []
        with pytest.raises(EndpointError, match=r"HTTP 401 .* wrong key: Bearer \*\*\*; MY_KEY is wrong") as error:
            EndpointGenerator(endpoint, store, "judge", notes.append).generate(PROMPTS, SAMPLING, 0)
        assert {k.lower(): v for k, v in served.headers[0].items()}["authorization"] == "Bearer sk-very-secret"
    said = [str(error.value), repr(endpoint), *notes]
    said += [file.read_bytes().decode("latin-1") for file in store.root.rglob("*") if file.is_file()]
    assert not [text for text in said if "secret" in text]
    with pytest.raises(ValueError, match="endpoint"):
        Endpoint(endpoint="http://me:secret@host/v1", name="x")


def test_a_signal_stops_it_and_answers_under_way_are_kept(store):
    def stop(done, total):
        assert total == 6
        if done >= 2:
            raise Interrupted(signal.SIGINT)

    with serving(echo) as served:
        generator = EndpointGenerator(served.endpoint(concurrency=1), store, "judge")
        with pytest.raises(Interrupted):
            generator.generate(PROMPTS, SAMPLING, 0, stop)
        sent = len(served.bodies)
        assert 2 <= sent < 6
        replies(generator)
        assert len(served.bodies) == 6, "no request was made twice"


KILLED = """
import sys
from pathlib import Path
from align.config import Endpoint, Sampling
from align.generate.endpoint import EndpointGenerator
from align.records import Message
from align.store import Store
prompts = [(Message("user", str(i)),) for i in range(200)]
endpoint = Endpoint(endpoint=sys.argv[1], name="tiny", concurrency=4)
EndpointGenerator(endpoint, Store(Path(sys.argv[2])), "judge").generate(prompts, Sampling(max_new_tokens=6), 0)
"""


def test_a_kill_loses_at_most_the_requests_under_way(store):
    def reply(body):
        time.sleep(0.01)
        return echo(body)

    with serving(reply) as served:
        root = Path(__file__).parents[2]
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, served.address, str(store.root)],
            env=os.environ | {"PYTHONPATH": str(root)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        while len(served.answered) < 40:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.01)
        child.kill()
        child.wait()
        time.sleep(0.2)  # the server finishes what it has begun
        before = len(served.answered)
        assert before < 200
        generator = EndpointGenerator(served.endpoint(concurrency=4), store, "judge")
        made = generator.generate([(Message("user", str(i)),) for i in range(200)], Sampling(max_new_tokens=6), 0)
        assert [c.text.split(" (")[0] for c in made] == [f"You said: {i}" for i in range(200)]
        assert generator.server.spent.cached >= before - 4


def token(text, *top):
    return {
        "token": text,
        "logprob": top[0][1] if top else 0.0,
        "top_logprobs": [{"token": t, "logprob": p} for t, p in top],
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([token(" A", (" A", log(0.6)), (" B", log(0.2)))], [log(0.75), log(0.25)]),
        ([token("(", ("(", 0.0)), token("B", ("B", log(0.9)), ("A", log(0.1)))], [log(0.1), log(0.9)]),
        ([token("A", ("A", log(0.5)), (" A", log(0.3)), ("B", log(0.2)))], [log(0.8), log(0.2)]),
        ([token("I", ("I", log(0.7)), ("A", log(0.3)))], None),
        ([token("A", ("A", log(0.9)), ("B", log(0.05)))], [log(0.9 / 0.95), log(0.05 / 0.95)]),
        ([token("A", ("A", log(0.8)), ("C", log(0.1)))], [log(8 / 9), log(1 / 9)]),
        ([token("A", ("A", 0.0))], [0.0, -np.inf]),
        ([token("\n", ("\n", 0.0))], None),
    ],
)
def test_a_choice_is_read_at_the_first_word(content, expected):
    found = chosen({"message": {"content": "?"}, "finish_reason": "stop", "logprobs": {"content": content}}, ["A", "B"])
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("(B)", ["A", "B"], 1),
        (" **A**.\n", ["A", "B"], 0),
        ("A good answer is B", ["A", "B"], None),
        ("10", ["1", "10"], 1),
        ("1", ["1", "10"], 0),
        ("", ["A", "B"], None),
        ("a", ["A", "B"], None),
    ],
)
def test_a_written_choice_must_be_the_whole_answer(text, options, expected):
    found = chosen(saying(text), options)
    assert (found is None) if expected is None else (np.argmax(found) == expected and found[expected] == 0)


def test_options_that_begin_alike_are_not_read_off_one_token(store):
    with serving(lambda body: saying("10") | {"logprobs": {"content": [token("1", ("1", 0.0))]}}) as served:
        generator = EndpointGenerator(served.endpoint(), store, "judge")
        assert generator.choose(PROMPTS[:1], ["1", "10"]).tolist() == [[-np.inf, 0.0]]
        with pytest.raises(CheckError, match="not all different"):
            generator.choose(PROMPTS[:1], ["A", " A"])


def test_what_was_asked_can_be_read_later(store):
    import sqlite3

    with serving(echo) as served:
        replies(EndpointGenerator(served.endpoint(), store, "judge"), PROMPTS[:1])
        (file,) = store.root.rglob("answers.sqlite")
        ((request, response),) = sqlite3.connect(file).execute("select request, response from answers")
        assert json.loads(request) == served.bodies[0]
        assert json.loads(response)["choice"] == echo(served.bodies[0])
