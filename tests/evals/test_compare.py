"""comparison.json and its Markdown."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.power import TTestPower

from align.evals.compare import comparison, paired
from align.evals.markdown import markdown
from align.evals.statistics import Measure, difference, interval, p_value, resampled
from align.stage import seed_of

IDS = tuple(map(str, range(40)))
CHANCE = np.random.default_rng(0)
BASE = CHANCE.normal(0, 1, 40)


def means(values):
    return Measure.of_means(IDS, values)


def nll(values):
    return Measure(IDS, values, np.full(40, 10.0))


MEASURES = {
    "base": {"politeness": means(BASE), "tokens": means(BASE + 20), "nll": nll(BASE + 30)},
    "sft": {"politeness": means(BASE + 1), "tokens": means(BASE + 20), "kl": means(BASE * 0 + 0.5)},
    "dpo": {"politeness": means(BASE + 1.2), "tokens": means(BASE + 25), "nll": nll(BASE + 35)},
}
BETTER = {"politeness": "higher", "nll": "lower", "perplexity": "lower"}
FOUND = comparison(MEASURES, BETTER, {"temperature": 1.0}, seed=3)


def test_every_policy_has_its_metrics_with_intervals():
    assert json.loads(json.dumps(FOUND)) == FOUND
    assert list(FOUND["policies"]) == ["base", "sft", "dpo"]
    expected = interval(means(BASE), seed_of(3, "politeness"))
    assert FOUND["policies"]["base"]["politeness"] == vars(expected)
    assert FOUND["policies"]["base"]["perplexity"] == {
        name: value if name in ("n", "clusters") else math.exp(value)
        for name, value in FOUND["policies"]["base"]["nll"].items()
    }
    assert FOUND["better"] == BETTER | {"tokens": None, "kl": None}


def test_each_later_policy_is_held_against_each_earlier_one():
    pairs = [(p["metric"], p["policy"], p["baseline"]) for p in FOUND["pairs"]]
    both = [("sft", "base"), ("dpo", "base"), ("dpo", "sft")]
    assert pairs == [
        *(("politeness", *pair) for pair in both), *(("tokens", *pair) for pair in both), ("nll", "dpo", "base"),
    ]  # fmt: skip
    expected = difference(means(BASE + 1.2), means(BASE + 1), seed_of(3, "politeness"))
    named = {"metric": "politeness", "policy": "dpo", "baseline": "sft"}
    assert FOUND["pairs"][2].items() >= (named | vars(expected)).items()


def test_sentences_follow_from_the_intervals_and_describe_only_what_can_be_better():
    assert FOUND["verdicts"] == [
        "politeness: sft beats base: +1 [1, 1], n = 40",
        "politeness: dpo beats base: +1.2 [1.2, 1.2], n = 40",
        "politeness: dpo beats sft: +0.2 [0.2, 0.2], n = 40",
        "nll: dpo loses to base: +0.5 [0.5, 0.5], n = 40",
    ]


def test_markdown_shows_all_of_it():
    text = markdown(FOUND)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["metric", "base", "sft", "dpo"]
    assert next(row for row in rows if row[0] == "kl") == ["kl", "", "0.5 [0.5, 0.5]", ""]
    assert {row[0] for row in rows} >= {"politeness ↑", "tokens", "nll ↓", "perplexity ↓"}
    assert ["politeness", "dpo", "sft", "+0.2 [0.2, 0.2]", "0.0022", "", "", "40 / 0 / 0", "40"] in rows
    assert all(sentence in text for sentence in FOUND["verdicts"])
    assert "- temperature: 1.0" in text
    widths = {len(line) for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 2, "two tables, each of one width"


def test_policies_are_compared_on_the_prompts_that_both_have_a_value_for():
    other = {"politeness": Measure.of_means(("x", *IDS[:-1]), np.r_[7.0, BASE[:-1] + 1])}
    found = comparison({"base": MEASURES["base"], "other": other}, BETTER, {}, seed=0)
    (pair,) = found["pairs"]
    assert (pair["n"], pair["win"], pair["difference"]) == (39, 39, pytest.approx(1))
    assert found["notes"] == [
        "politeness of other and base: compared on the 39 prompts that have a value of both; 2 have that of one only"
    ]
    assert found["notes"][0] in markdown(found)


def test_a_metric_that_too_few_prompts_have_is_left_out_and_the_others_are_compared():
    alone, apart = Measure.of_means(IDS[:1], BASE[:1]), Measure.of_means(IDS[:2], BASE[:2])
    other = Measure.of_means(IDS[1:3], BASE[1:3])
    measures = {
        "base": MEASURES["base"] | {"rare": alone, "half": apart},
        "sft": MEASURES["sft"] | {"rare": apart, "half": other},
    }
    found = comparison(measures, BETTER, {}, seed=0)
    assert "rare" not in found["policies"]["base"] and "rare" in found["policies"]["sft"]
    assert {pair["metric"] for pair in found["pairs"]} == {"politeness", "tokens"}
    assert found["notes"] == [
        "rare of base is not shown: one prompt alone, or one cluster of them, has no interval",
        "half of sft and base: not compared: 1 prompts have a value of both, 2 of one only",
    ]


def test_tokens_of_different_tokenizers_are_not_compared():
    measures = {"base": MEASURES["base"], "dpo": MEASURES["dpo"]}
    found = comparison(measures, BETTER, {}, seed=0, tokenizers={"base": "a", "dpo": "b"})
    assert {pair["metric"] for pair in found["pairs"]} == {"politeness"}
    assert [s.split(":")[0] for s in found["verdicts"]] == ["politeness"]
    why = "is compared only between policies with the same tokenizer: base | dpo"
    assert found["notes"] == [f"tokens {why}", f"nll {why}"]
    three = comparison(MEASURES, BETTER, {}, seed=0, tokenizers={"base": "a", "sft": "b", "dpo": "a"})
    assert three["notes"] == ["tokens is compared only between policies with the same tokenizer: base, dpo | sft"], (
        "said once, not for every pair"
    )
    assert ("tokens", "dpo", "base") in {(p["metric"], p["policy"], p["baseline"]) for p in three["pairs"]}


def test_a_rate_of_nothing_at_all_has_a_wilson_interval():
    rates = {"base": {"right": means(np.zeros(40))}, "sft": {"right": means(BASE > 0)}}
    found = comparison(rates, {"right": "higher"}, {}, seed=0)["policies"]["base"]["right"]
    assert (found["low"], found["high"]) == pytest.approx((0, 0.08762), abs=1e-5)  # z^2 / (n + z^2)
    more = {"base": rates["base"], "sft": {"right": means(np.full(40, 3.0))}}
    found = comparison(more, {}, {}, seed=0)["policies"]["base"]["right"]
    assert (found["low"], found["high"]) == (0, 0), "where others have 3, it is no rate"


def test_one_policy_alone_has_values_and_no_pairs():
    alone = comparison({"base": MEASURES["base"]}, BETTER, {}, seed=0)
    assert alone["pairs"] == alone["verdicts"] == []
    assert "Paired differences" not in markdown(alone)


def test_a_pair_says_what_it_could_have_found():
    """Six prompts in ten differ by one: d_z 0.5 or so; McNemar, for all say 0 or 1."""
    policy, baseline = means(np.r_[np.ones(30), np.zeros(10)]), means(np.r_[np.zeros(12), np.ones(20), np.zeros(8)])
    third = means(np.r_[np.zeros(2), np.ones(28), np.zeros(10)])
    rates = {"base": {"right": baseline}, "sft": {"right": policy}, "dpo": {"right": third}}
    found = comparison(rates, {"right": "higher"}, {}, seed=0, worth={"right": 0.1})["pairs"]
    p = [binomtest(win, n).pvalue for win, n in ((12, 14), (10, 12), (0, 2))]
    assert [pair["p"] for pair in found] == pytest.approx(p)
    assert [pair["p_holm"] for pair in found] == pytest.approx([3 * p[0], 2 * p[1], p[2]])
    assert [pair["sure"] for pair in found] == [True, False, False]
    first = found[0]
    assert first["test"] == "mcnemar" and first["effect"] == pytest.approx(first["difference"] / first["spread"])
    power = TTestPower().power(first["detectable"] / first["spread"], 40, 0.05 / 3)
    assert power == pytest.approx(0.8)
    assert first["needed"]["difference"] == 0.1
    assert TTestPower().power(0.1 / first["spread"], first["needed"]["prompts"], 0.05 / 3) == pytest.approx(
        0.8, abs=1e-3
    )


def test_few_false_alarms_among_many_pairs():
    """Six equal policies have fifteen pairs: without Holm, a third of the comparisons would find some difference."""
    scores = np.random.default_rng(3).normal(0, 1, (600, 6, 40))
    gaps = [scores[:, j] - scores[:, i] for i, j in combinations(range(6), 2)]
    p = np.stack([p_value(resampled(list(gap), 0) / 40, 40) for gap in gaps], 1)
    assert np.mean(p.min(1) <= 0.05) > 0.2
    assert np.mean(15 * p.min(1) <= 0.05) <= 0.05, "the smallest p is Holm's, times the number of pairs"


def test_one_prompt_that_both_have_is_not_enough():
    alone = Measure.of_means(IDS[:1], BASE[:1])
    assert paired(alone, alone, 0) == (None, "not compared: 1 prompts have a value of both, 0 of one only")
