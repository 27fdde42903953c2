"""The test double keeps the promises of a generator."""

from align.config import Sampling
from align.generate.scripted import ScriptedGenerator
from align.records import Message

PROMPTS = [(Message("user", "one"),), (Message("user", "two"),)]


def test_it_says_what_the_script_says():
    generator = ScriptedGenerator(lambda prompt, index: f"{prompt[0].content}{index}")
    told = []
    made = generator.generate(PROMPTS, Sampling(n=2), 0, lambda *seen: told.append(seen))
    assert [(c.prompt, c.index, c.text, c.finish) for c in made] == [
        (0, 0, "one0", "stop"), (0, 1, "one1", "stop"), (1, 0, "two0", "stop"), (1, 1, "two1", "stop"),
    ]  # fmt: skip
    assert told == [(4, 4)]


def test_what_is_too_long_is_cut():
    (made,) = ScriptedGenerator(lambda prompt, index: "año").generate(PROMPTS[:1], Sampling(max_new_tokens=2), 0)
    assert (made.text, made.finish, len(made.ids), len(made.logps)) == ("a", "length", 2, 2)
