"""Every card is right, and its own cases hold."""

from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import try_to_load_from_cache

from align.errors import RecipeError
from align.machine import Machine
from align.registry import bundled
from align.rewards import cards
from align.rewards.base import REWARDS, RewardSpec, load
from align.store import Store

CARDS = cards.files()


def test_the_package_has_cards():
    assert {"length", "refusal", "repetition", "numeric_answer"} <= CARDS.keys()
    assert all(file.parent == bundled("reward_models") for file in CARDS.values())


@pytest.mark.parametrize("name", CARDS)
def test_a_bundled_card_keeps_its_promises(name, tmp_path):
    card = cards.read(CARDS[name])
    assert card.description and card.bad_at
    if card.model is not None and not try_to_load_from_cache(card.model.path, "config.json"):
        pytest.skip(f"{card.model.path} is not in the local Hugging Face cache")
    (tmp_path / "words.txt").write_text("good\t1.9\nbad\t-2.5\n")
    own = {"options": {"file": "words.txt"}} if name == "lexicon" else {}
    spec = RewardSpec.model_validate({"card": name} | own)
    store, machine = Store(tmp_path / "store"), Machine()
    reward = load(spec, SimpleNamespace(base=tmp_path, store=store, machine=machine, note=print))
    assert card.cases or card.rule == "length"
    sign = -1 if reward.better == "lower" else 1
    for case in card.cases:
        good, bad = reward([case.record()] * 2, [case.good, case.bad])
        assert sign * good > sign * bad, case


def test_an_ensemble_counts_disagreement():
    spec = RewardSpec.model_validate("boxed_answer")
    case = cards.read(CARDS["boxed_answer"]).cases[0]
    scores = load(spec, SimpleNamespace(base=None))([case.record()] * 3, [case.good, case.bad, "5"])
    assert scores == pytest.approx([1.0, 0.5 - 0.5 * 0.5, 0.0])


def test_a_card_may_need_an_option():
    with pytest.raises(ValueError, match=r"options: file: Field required \(options of 'lexicon': file\)"):
        RewardSpec.model_validate("lexicon")


def test_a_card_beside_the_recipe_comes_first(tmp_path):
    (tmp_path / "reward_models").mkdir()
    mine = {"description": "d", "bad_at": "b", "rule": "length", "options": {"unit": "characters"}, "scale": 0.5}
    (tmp_path / "reward_models" / "length.yaml").write_text(yaml.safe_dump(mine))
    spec = RewardSpec.model_validate("length", context={"base": tmp_path})
    assert (spec.rule, spec.options, spec.scale, spec.name) == ("length", {"unit": "characters"}, 0.5, "length")
    changed = RewardSpec.model_validate({"card": "length", "scale": 2, "name": "long"}, context={"base": tmp_path})
    assert (changed.options, changed.scale, changed.name) == ({"unit": "characters"}, 2.0, "long")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule: length", "description: Field required"),
        ("{description: d, bad_at: b}", "one of rule, model and ensemble"),
        ("{description: d, bad_at: b, rul: length}", "rul: Extra inputs"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_card_is_named(tmp_path, text, message):
    (tmp_path / "reward_models").mkdir()
    file = tmp_path / "reward_models" / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        RewardSpec.model_validate("mine", context={"base": tmp_path})
    assert str(file) in str(error.value)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no reward is called 'lenght'"):
        RewardSpec.model_validate("lenght")
    with pytest.raises(RecipeError, match="refusal"):
        REWARDS["refusals"]
