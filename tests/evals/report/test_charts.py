"""Charts: what they show by hand, and that they fit a page with others like them, in light and dark."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from align.evals.report.charts import charts, forest
from align.evals.report.draw import COLOURS, smooth
from align.evals.report.further import best_of, brittleness, ratings
from align.evals.report.training import _columns, _depths


def rows(chart, *keys):
    return [tuple(row[key] for key in keys) for row in chart.rows]


def test_wins_count_ties_half_and_know_which_way_is_better(material):
    quality, refusal = charts(material)["wins"]
    assert {(row["policy"], row["baseline"]): row["rate"] for row in quality.rows} == {
        ("tuned", "base"): 1.0, ("base", "tuned"): 0.0, ("same", "base"): 0.5, ("base", "same"): 0.5,
        ("same", "tuned"): 0.0, ("tuned", "same"): 1.0,
    }  # fmt: skip
    assert "tuned against base 100%" in quality.alt
    # 30 wins and 4 ties of 40 in a metric of which less is better
    pairs = [pair | {"win": 30, "tie": 4, "loss": 6} for pair in material.found["pairs"]]
    turned = charts(replace(material, found=material.found | {"pairs": pairs}))["wins"][1]
    assert (turned.title, turned.rows[0]["policy"], turned.rows[0]["rate"]) == (
        refusal.title,
        "tuned",
        pytest.approx(0.2),
    )


def test_rates_of_replies_come_before_those_of_prompts(material):
    told = {"metric": "quality", "policy": "tuned", "baseline": "base", "rate": 0.7, "low": 0.6, "high": 0.8, "n": 40,
            "controlled": {"rate": 0.55, "low": 0.4, "high": 0.7}}  # fmt: skip
    chart = charts(replace(material, found=material.found | {"win_rates": [told]}))["wins"][0]
    assert [(r["policy"], r["rate"], r["low"], r["at_equal_length"]) for r in chart.rows] == [
        ("tuned", 0.7, 0.6, 0.55), ("base", pytest.approx(0.3), pytest.approx(0.2), pytest.approx(0.45)),
    ]  # fmt: skip
    assert "70% (55%)" in chart.svg


def test_a_judge_has_its_own_wins(material):
    told = {"metric": "kind", "policy": "tuned", "baseline": "base", "rate": 0.7, "low": 0.6, "high": 0.8, "n": 40,
            "controlled": None}  # fmt: skip
    chart = charts(replace(material, found=material.found | {"win_rates": [told], "judges": {"kind": {}}}))["wins"][-1]
    assert chart.title == "kind" and chart.alt == "Win rates by kind: tuned against base 70%; base against tuned 30%"


def test_what_only_some_comparisons_have(material):
    assert ratings(material) == best_of(material) == brittleness(material) == []
    value = {"value": 10.0, "low": 5.0, "high": 15.0}
    found = material.found | {
        "ratings": {"quality": {"base": value, "tuned": value}},
        "best_of": {"base": [{"n": n, "metric": "quality", **value, "kl": 0.0, "kl_per_token": 0.0} for n in (1, 2)]},
        "brittleness": {"tuned": {"noise": {"quality": {"difference": -0.1, "low": -0.2, "high": 0.0, "n": 40}}}},
    }
    more = replace(material, found=found)
    (rated,), (best,), (brittle,) = ratings(more), best_of(more), brittleness(more)
    assert [row["policy"] for row in rated.rows] == ["base", "tuned"] and "base 10" in rated.alt
    assert [row["n"] for row in best.rows] == [1, 2] and "base of 2 10" in best.alt
    assert "tuned, noise -0.1" in brittle.alt and "tuned, noise" in brittle.svg


def test_the_frontier_starts_from_the_base(material):
    chart = charts(material)["frontier"][0]
    assert rows(chart, "policy", "kl", "quality") == [
        ("base", 0.0, pytest.approx(0.3)), ("tuned", pytest.approx(0.7), pytest.approx(0.7)),
        ("same", pytest.approx(0.3), pytest.approx(0.3)),
    ]  # fmt: skip


def test_shares_of_a_distribution_add_up_and_yes_or_no_is_not_drawn(material):
    (chart,) = charts(material)["distributions"]
    assert chart.title == "quality"
    for policy in material.policies:
        assert sum(row["share"] for row in chart.rows if row["policy"] == policy) == pytest.approx(1)
    assert {row["share"] for row in chart.rows if row["policy"] == "base"} - {0.0} == {0.2}


def test_without_replies_or_pairs_there_is_less_to_draw(material):
    alone = replace(material, found=material.found | {"pairs": []}, replies={})
    made = charts(alone)
    assert [bool(made[name]) for name in ("differences", "wins", "frontier", "distributions")] == [0, 0, 1, 0]


def test_a_chart_takes_the_colours_and_the_font_of_its_page(material):
    for made in charts(material).values():
        for chart in made:
            assert not {light for light, _ in COLOURS.values()} & set(re.findall(r"#[0-9a-f]{6}\b", chart.svg))
            assert (
                "font-family" not in chart.svg and "<style" not in chart.svg and "http:" not in chart.svg.split(">")[0]
            )
            used, defined = set(re.findall(r'#([\w-]+)[")]', chart.svg)), set(re.findall(r' id="([^"]+)"', chart.svg))
            assert defined == used
            assert chart.svg.startswith("<svg viewBox") and f'aria-label="{chart.alt[:20]}' in chart.svg


def test_names_are_text_whatever_they_are(material):
    def named(values):
        return {("<b>$x$-->" if key == "tuned" else key): value for key, value in values.items()}

    pairs = [
        p | {side: "<b>$x$-->" for side in ("policy", "baseline") if p[side] == "tuned"}
        for p in material.found["pairs"]
    ]
    found = material.found | {"policies": named(material.found["policies"]), "pairs": pairs}
    svg = charts(replace(material, found=found, replies=named(material.replies)))["differences"][0].svg
    assert "&lt;b&gt;$x$--&gt;" in svg and "<b>" not in svg


def test_a_chart_is_kept_for_papers(material, tmp_path):
    chart = charts(material)["differences"][0]
    chart.save(tmp_path / "figures")
    assert (tmp_path / "figures" / "difference-quality.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "figures" / "difference-quality.csv").open() as file:
        kept = list(csv.DictReader(file))
    assert {(row["policy"], row["baseline"]) for row in kept} == {
        ("tuned", "base"),
        ("same", "base"),
        ("same", "tuned"),
    }
    assert [float(row["difference"]) for row in kept] == [row["difference"] for row in chart.rows]


def test_a_running_mean_keeps_lines_and_ends():
    line = [2.0 * i for i in range(100)]
    assert smooth(line).tolist() == pytest.approx(line)
    assert smooth([0.0] * 50 + [5.0] + [0.0] * 49)[48:53].tolist() == pytest.approx([1.0] * 5)


def test_parents_stand_left_of_their_children_and_lines_go_through_every_column_between():
    nodes = ["result", "dpo", "sft", "base", "prompts"]
    edges = [("result", "dpo"), ("result", "base"), ("result", "prompts"), ("dpo", "sft"), ("sft", "base")]
    assert _depths(nodes, edges) == {"base": 0, "sft": 1, "dpo": 2, "prompts": 2, "result": 3}
    columns, ways = _columns(nodes, edges)
    place = {key: x for x, keys in enumerate(columns) for key in keys}
    assert len(place) == 5 + 2  # the line from base to the result passes two columns
    assert all(place[right] - place[left] == 1 for way in ways for left, right in pairwise(way))


def test_what_is_told_to_those_who_cannot_see_is_not_rounded_like_a_drawing(material):
    pairs = [{**pair, "difference": 0.0129, "low": 0.00412} for pair in material.found["pairs"]]
    chart = forest(replace(material, found=material.found | {"pairs": pairs}), "quality")
    assert "+0.0129 [0.00412, " in re.search(r'aria-label="([^"]*)"', chart.svg)[1]


def test_a_metrics_name_leads_no_file_astray(material, tmp_path):
    pairs = [{**pair, "metric": "../a/b c"} for pair in material.found["pairs"] if pair["metric"] == "quality"]
    found = material.found | {"pairs": pairs, "better": {"../a/b c": "higher"}}
    forest(replace(material, found=found), "../a/b c").save(tmp_path / "figures")
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        f"difference-..-a-b-c.{kind}" for kind in ("png", "csv")
    }
    assert [file.name for file in tmp_path.iterdir()] == ["figures"]
