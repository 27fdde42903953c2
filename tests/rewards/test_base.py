"""How rules are registered, and what a recipe may write where a reward is wanted."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter

from align.errors import AlignError, RecipeError
from align.plugins import forget_plugins, load_plugin
from align.records import Message, Prompt
from align.rewards.base import REWARDS, RewardField, RewardSpec, direction, load, names, rehearse
from align.stage import RewardRef

PROMPT = Prompt("1", (Message("user", "hi"),))
field = TypeAdapter(RewardField)
context = SimpleNamespace(base=Path("/recipes"))


def test_the_three_ways_to_name_a_reward():
    assert field.validate_python("$mine") == RewardRef("mine")
    assert field.validate_python("length").rule == "length"
    block = field.validate_python({"rule": "length", "options": {"unit": "characters"}, "name": "letters"})
    assert load(block, context)([PROMPT], ["four"]) == [4.0]
    assert load(block, context).name == "letters"


def test_scores_are_scaled_then_clipped():
    spec = RewardSpec.model_validate({"rule": "length", "scale": -0.5, "clip": [-1, 0], "better": "lower"})
    scored = load(spec, context)
    assert scored([PROMPT] * 3, ["", "one", "one two three"]) == [0.0, -0.5, -1.0]
    assert scored.better == "lower"


@pytest.mark.parametrize(
    ("value", "better"),
    [
        ("$mine", "higher"),
        ({"rule": "repetition"}, "lower"),
        ({"rule": "repetition", "scale": -1}, "higher"),
        ({"model": {"path": "x"}, "scale": -0.5}, "lower"),
        ({"rule": "repetition", "scale": -1, "better": "lower"}, "lower"),
        ({"rule": "repetition", "scale": -1, "better": "neither"}, None),
        ({"rule": "length", "scale": -1}, None),
    ],
)
def test_a_negative_scale_turns_what_is_better_unless_that_is_said(value, better):
    assert direction(field.validate_python(value)) == better
    if isinstance(value, dict) and "rule" in value:
        assert load(field.validate_python(value), context).better == better


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rule": "pattern", "options": {"regex": "("}}, r"reward 'pattern' fails on prompt 1: .*unterminated"),
        ({"rule": "numeric_answer"}, "prompt 1 has no column 'answer'"),
        ({"rule": "lexicon", "options": {"file": "nowhere.txt"}}, "'lexicon' fails on prompt 1: FileNotFoundError"),
    ],
)
def test_a_rehearsal_finds_what_a_rule_needs_and_lacks(value, message):
    with pytest.raises(AlignError, match=message):
        rehearse([field.validate_python("$mine"), field.validate_python(value)], context, PROMPT)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rule": "length", "options": {"units": "words"}}, r"options: units: .*\(options of 'length': unit\)"),
        ({"rule": "length", "options": {"unit": "lines"}}, "options: unit: Input should be 'words' or 'characters'"),
        ({"rule": "lexicon"}, "options: file: Field required"),
        ({"scale": 2}, "one of rule, model, judge, ensemble; found none"),
        ({"model": {"path": "x"}, "options": {"a": 1}}, "only rules have options"),
    ],
)
def test_wrong_options_are_refused_while_the_recipe_is_read(value, message):
    with pytest.raises(ValueError, match=message):
        field.validate_python(value)


def test_a_file_among_the_options_is_a_path_so_that_its_content_is_hashed_and_starts_at_the_recipe():
    spec = field.validate_python({"rule": "lexicon", "options": {"file": "words.txt"}})
    assert spec.options == {"file": Path("words.txt")}
    assert load(spec, context).reward.options == {"file": Path("/recipes/words.txt")}


def test_a_spec_survives_the_way_to_a_worker():
    spec = field.validate_python({"rule": "lexicon", "options": {"file": "words.txt"}, "clip": [0, 1]})
    assert field.validate_python(spec.model_dump(mode="json")) == spec


def test_two_rewards_of_one_name_are_refused():
    wanted = [field.validate_python("length"), field.validate_python({"rule": "repetition", "name": "length"})]
    with pytest.raises(ValueError, match="two rewards are called 'length'"):
        names(wanted)


def test_a_plugin_adds_a_rule_and_may_not_take_a_name(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from align.rewards.base import reward\n"
        "@reward('shouting', better='lower')\n"
        "def shouting(prompt, reply: str, mark: str = '!') -> float:\n"
        "    return reply.count(mark)\n"
    )
    load_plugin(plugin)
    try:
        scored = load(field.validate_python({"rule": "shouting", "options": {"mark": "?"}}), context)
        assert scored([PROMPT], ["what?!"]) == [1.0]
        assert scored.better == "lower"
    finally:
        forget_plugins()
    assert "shouting" not in REWARDS
    plugin.write_text(plugin.read_text().replace("shouting", "length"))
    with pytest.raises(RecipeError, match="'length' exists already"):
        load_plugin(plugin)
