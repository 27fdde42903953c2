"""Benchmarks in comparisons: asked through lm_eval in each policy's own template, numbers from log-probs of its own."""

import json
import sys

import pytest
import torch

from align.disk import sha256_of_file
from align.errors import CheckError, DependencyError, RecipeError
from align.evals.benchmarks import Benchmark
from align.evals.examining import exams
from align.evals.report.material import of_folder
from align.evals.report.page import write
from align.models.contract import logps
from align.models.policy import load_policy
from align.recipe import load
from align.stages.compare import Compare
from tests.generate.servers import saying, serving
from tests.stages.conftest import WORDS, with_contract

lm_eval = pytest.importorskip("lm_eval", reason="needs pip install 'align[eval]'")

DOCUMENTS = [
    {"question": f"{a} {b} on", "choices": ["mat", "log then", "so very happy"], "right": right}
    for (a, b), right in zip(
        [("cat", "sat"), ("dog", "ran"), ("a", "fell"), ("sad", "dog"), ("good", "cat"), ("bad", "log")],
        [0, 1, 2, 0, 1, 2], strict=True,
    )
]  # fmt: skip
SHOTS = [{"question": "the off", "choices": ["happy", "sad"], "right": 1}]
CHOICES = """
task: places
dataset_path: json
dataset_kwargs: {data_files: {test: places.jsonl, train: shots.jsonl}}
training_split: train
fewshot_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "the {{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: right
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITTEN = """
task: written
include: places.yaml
output_type: generate_until
doc_to_choice: null
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["then"], max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
LIKELY = """
task: likely
dataset_path: json
dataset_kwargs: {data_files: {test: places.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "the {{question}} the mat"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path):
    """The recipe's folder, with three tasks in it."""
    for name, text in {"places": CHOICES, "written": WRITTEN, "likely": LIKELY}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    for name, found in {"places": DOCUMENTS, "shots": SHOTS}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return tmp_path


def run(ctx, *benchmarks, **fields):
    given = {"policies": ["$base", "$tuned"], "benchmarks": benchmarks}
    stage = Compare.model_validate(given | fields, context={"base": ctx.base})
    stage.check(ctx)
    stage.run(ctx)
    return json.loads((ctx.out / "comparison.json").read_text())


@pytest.fixture
def known(folder, monkeypatch):
    """lm_eval knows the tasks of the folder, and none of its own, which take seconds to list."""
    from lm_eval.tasks import TaskManager

    here = TaskManager(include_defaults=False, include_path=str(folder))
    monkeypatch.setattr("align.evals.harness.tasks._known", lambda task: here)
    return here


def kept(ctx, name):
    return [json.loads(line) for line in (ctx.out / "benchmarks" / f"{name}.jsonl").read_text().splitlines()]


def likelihood(policy, before, answer):
    """Log-prob of an answer's words after a text, each word a token, special tokens spelled out."""
    asked, said = (policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, answer))
    return sum(logps(policy.model, [*asked, *said])[-len(said) :])


def test_a_choice_is_the_likeliest_reply_in_the_policys_template(artifacts, context):
    ctx = context(artifacts)
    found = run(ctx, {"task": "places.yaml", "few_shot": 1})
    values = {}
    for name in ("base", "tuned"):
        policy, values[name] = load_policy(artifacts[name]), []
        for row, document in zip(kept(ctx, name), DOCUMENTS, strict=True):
            before = f"User: the the off Assistant: sad </s> User: the {document['question']} Assistant:"
            expected = [likelihood(policy, before, choice) for choice in document["choices"]]
            assert row["answered"] == pytest.approx(expected, abs=1e-4)
            values[name].append(expected.index(max(expected)) == document["right"])
        assert found["policies"][name]["places/acc"]["value"] == pytest.approx(sum(values[name]) / 6)
    (pair,) = found["pairs"]
    gaps = [after - before for before, after in zip(*values.values(), strict=True)]
    assert (pair["win"], pair["loss"], pair["n"]) == (gaps.count(1), gaps.count(-1), 6)
    assert pair["test"] == "mcnemar" and found["better"] == {"places/acc": "higher"}


def test_an_answer_that_the_task_begins_goes_on_from_there(artifacts, context, folder):
    (folder / "begun.yaml").write_text(f"{CHOICES}gen_prefix: then the\n".replace("places", "begun", 1))
    ctx = context(artifacts)
    run(ctx, "begun.yaml", policies=["$base"])
    policy = load_policy(artifacts["base"])
    for row, document in zip(kept(ctx, "base"), DOCUMENTS, strict=True):
        assert row["asked"] == f"User: the {document['question']} Assistant: then the"
        expected = [likelihood(policy, row["asked"], choice) for choice in document["choices"]]
        assert row["answered"] == pytest.approx(expected, abs=1e-4)


def test_a_description_is_the_systems_or_where_it_is_refused_the_users(artifacts, context, folder, tmp_path_factory):
    (folder / "told.yaml").write_text(f"{CHOICES}description: so very\n".replace("places", "told", 1))
    refusing = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('nobody rules here') }}{% endif %}"
        "{{ m.role | capitalize }}: {{ m.content }} {% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    deaf = with_contract(artifacts["base"], tmp_path_factory.mktemp("deaf"), template=refusing)
    ctx = context({"base": artifacts["base"], "deaf": deaf})
    run(ctx, {"task": "told.yaml", "limit": 2}, policies=["$base", "$deaf"], templates="own")
    asked = {name: kept(ctx, name)[0]["asked"] for name in ("base", "deaf")}
    assert asked["base"] == "<unk> so very User: the cat sat on Assistant:", "the word System: is not in the vocabulary"
    assert asked["deaf"] == "User: so very the cat sat on Assistant:"


def test_a_raw_policy_is_asked_by_a_text_to_go_on_with(artifacts, context, tmp_path_factory):
    raw = with_contract(artifacts["base"], tmp_path_factory.mktemp("raw"), template="raw")
    ctx = context({"base": raw})
    run(ctx, {"task": "places.yaml", "few_shot": 1}, policies=["$base"])
    policy = load_policy(raw)
    for row, document in zip(kept(ctx, "base"), DOCUMENTS, strict=True):
        assert row["asked"] == f"the the off sad\n\nthe {document['question']}"
        before = f"the the off sad the {document['question']}"
        expected = [likelihood(policy, before, choice) for choice in document["choices"]]
        assert row["answered"] == pytest.approx(expected, abs=1e-4)


def test_a_written_answer_ends_at_the_policys_stop_ids_and_where_the_task_says(artifacts, context, tmp_path_factory):
    def written(artifact):
        ctx = context({"base": artifact})
        run(ctx, "written.yaml", policies=["$base"])
        return [row["answered"][0].split() for row in kept(ctx, "base")]

    policy, asked = load_policy(artifacts["base"]), [f"User: the {d['question']} Assistant:" for d in DOCUMENTS]
    expected = []
    for text in asked:
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        for _ in range(12):
            with torch.no_grad():
                ids.append(int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()))
        expected.append(policy.tokenizer.convert_ids_to_tokens(ids[-12:]))
    first = next(word for word in expected[0][1:] if word != "<unk>")
    stopping = with_contract(
        artifacts["base"], tmp_path_factory.mktemp("stop"),
        stop=[*policy.contract.stop, policy.tokenizer.convert_tokens_to_ids(first)],
    )  # fmt: skip

    def cut(words, *ends):
        left = words[: next((i for i, word in enumerate(words) if word in ends), len(words))]
        return [word for word in left if word not in ("<unk>", "<s>", "<pad>")]

    as_it_is, stopped = ([cut(words, "then", "</s>", *more) for words in expected] for more in ([], [first]))
    assert as_it_is != stopped
    assert (written(artifacts["base"]), written(stopping)) == (as_it_is, stopped)


def test_likelihoods_of_texts_add_up_over_words_and_bytes(artifacts, context):
    found = run(context(artifacts), "likely.yaml", policies=["$base"])
    policy, total = load_policy(artifacts["base"]), 0.0
    texts = [f"the {document['question']} the mat" for document in DOCUMENTS]
    for text in texts:
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        total -= sum(logps(policy.model, [policy.contract.stop[0], *ids]))
    values = {name: found["policies"]["base"][f"likely/{name}"]["value"] for name in ("word_nll", "bits_per_byte")}
    assert values["word_nll"] == pytest.approx(total / sum(len(text.split()) for text in texts), abs=1e-4)
    bits = total / torch.tensor(2.0).log().item() / sum(len(text.encode()) for text in texts)
    assert values["bits_per_byte"] == pytest.approx(bits, abs=1e-4)
    assert set(found["better"].values()) == {"lower"}


def test_they_are_metrics_of_the_report_like_all_others(artifacts, context):
    ctx = context(artifacts)
    found = run(ctx, {"task": "places.yaml", "name": "mats", "limit": 4}, worth={"mats/acc": 0.5})
    assert found["policies"]["tuned"]["mats/acc"]["n"] == 4
    assert [verdict[:23] for verdict in found["verdicts"]] == ["mats/acc: tuned and bas"]
    assert found["settings"]["benchmark mats"].startswith("places.yaml, 0 examples, the first 4 documents, asked by ")
    assert "temperature" not in found["settings"], "nobody replied"
    assert "| mats/acc ↑" in (ctx.out / "comparison.md").read_text()
    write(of_folder(ctx.out, "it"), ctx.out / "report.html")
    page = (ctx.out / "report.html").read_text()
    assert "mats/acc" in page and "2 checkpoints, 1 benchmark, seed 0" in page


def test_replies_to_prompts_are_measured_beside_them(artifacts, prompts, context):
    ctx = context(artifacts | {"prompts": prompts})
    found = run(ctx, "places.yaml", policies=["$base"], prompts="$prompts", sampling={"max_new_tokens": 2})
    assert {"places/acc", "words"} < found["policies"]["base"].keys() and found["settings"]["prompts"] == 12


def test_one_more_policy_is_asked_alone_and_other_documents_are_asked_again(artifacts, context, folder):
    def asked(*policies):
        run(context(artifacts), "places.yaml", policies=policies)
        return {e["what"] for e in context.events if e["event"] == "progress"}

    assert asked("$base") == {"places of base"}
    assert asked("$base", "$tuned") == {"places of tuned"}
    (folder / "places.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS[:4]))
    assert asked("$base") == {"places of base"}


def test_a_document_without_room_is_left_out_and_many_are_an_error(artifacts, context, folder):
    long = {"question": " ".join(WORDS.split()[:20] * 5), "choices": ["mat", "log"], "right": 0}
    (folder / "places.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*DOCUMENTS, long]))
    with pytest.raises(CheckError, match=r"1 of 7 documents \(14.3%\) of places have no room in base's context, such"):
        run(context(artifacts), "places.yaml", policies=["$base"])
    found = run(context(artifacts), "places.yaml", policies=["$base"], max_too_long=0.2)
    assert found["policies"]["base"]["places/acc"]["n"] == 6
    assert [note[:18] for note in found["notes"]] == ["1 of 7 documents ("]


def test_a_server_is_asked_what_it_can_answer(artifacts, context):
    with serving(lambda body: saying("mat")) as server:
        ctx = context(artifacts | {"served": server.endpoint()})
        found = run(ctx, "written.yaml", "places.yaml", policies=["$base", "$served"])
        asked = [body["messages"] for body in server.bodies]
    assert {tuple(body["stop"]) for body in server.bodies} == {("then",)}
    assert sorted(said[-1]["content"] for said in asked) == sorted(f"the {d['question']}" for d in DOCUMENTS)
    assert found["policies"]["served"]["written/exact_match"]["value"] == 1
    assert "places/acc" not in found["policies"]["served"]
    assert (
        "places of served is not measured: it asks how likely given answers are, which a server does not say"
        in (found["notes"])
    )
    with pytest.raises(CheckError, match="benchmark 'places' is for nobody here: \\$served: it asks how likely"):
        run(context({"served": server.endpoint()}), "places.yaml", policies=["$served"])


def test_mistakes_are_named_before_anything_is_asked(artifacts, context, folder, known):
    def refused(**changes):
        text = CHOICES
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "odd.yaml").write_text(text)
        with pytest.raises(CheckError) as error:
            run(context(artifacts), "odd.yaml")
        assert not context.events
        return str(error.value)

    with pytest.raises(CheckError, match=r"has no task 'place'\. Did you mean 'places'\?"):
        run(context(artifacts), "place")
    assert "its documents are not to be had: " in refused(**{"dataset_path: json": "dataset_path: nobody/nothing"})
    assert "its documents are not to be had: " in refused(**{"test: places.jsonl": "test: missing.jsonl"})
    assert "runs code that models write" in refused(**{"test_split: test": "test_split: test\nunsafe_code: true"})
    assert "its task fails in lm_eval: " in refused(**{"doc_to_target: right": "doc_to_target: '{{wrong}}'"})
    beams = {"output_type: multiple_choice": "output_type: generate_until\ngeneration_kwargs: {num_beams: 4}"}
    assert "decodes by 'num_beams', which is not known" in refused(**beams, **{"metric: acc": "metric: exact_match"})
    with pytest.raises(CheckError, match="benchmark 'places': its task fails in lm_eval: "):
        run(context(artifacts), {"task": "places.yaml", "few_shot": 2})
    assert not context.events
    (folder / "odd.yaml").write_text(f"{CHOICES}num_fewshot: 0\n")
    with pytest.raises(CheckError, match="its task is defined without examples; leave out few_shot"):
        run(context(artifacts), {"task": "odd.yaml", "few_shot": 2})


@pytest.fixture
def grouped(folder, monkeypatch):
    """Two groups of the same two tasks, whose data lm_eval reads from the working directory."""
    monkeypatch.chdir(folder)
    (folder / "more.yaml").write_text("include: places.yaml\ntask: more\ndoc_to_text: '{{question}}'\n")
    both = "task: [places, more]\n"
    (folder / "group.yaml").write_text(f"group: both\n{both}aggregate_metric_list: [{{metric: acc}}]\n")
    (folder / "apart.yaml").write_text(f"group: apart\n{both}")


def test_tasks_of_a_group_count_together_where_lm_eval_has_it_so(artifacts, context, grouped, known):
    found = run(context(artifacts), "both", "apart", policies=["$base"])
    values = found["policies"]["base"]
    assert values.keys() == {"both/acc", "apart/places/acc", "apart/more/acc"}
    assert values["both/acc"]["n"] == 12
    apart = [values[f"apart/{name}/acc"]["value"] for name in ("places", "more")]
    assert values["both/acc"]["value"] == pytest.approx(sum(apart) / 2)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "what are they compared by"),
        ({"rewards": ["length"], "text": "$texts"}, "rewards: nobody replies to anything"),
        ({"benchmarks": ["arc_easy", {"task": "arc_easy", "few_shot": 5}]}, "'arc_easy' is there twice; give one"),
        ({"benchmarks": ["nowhere/task.yaml"]}, "there is no file .*nowhere/task.yaml"),
        ({"benchmarks": ["arc_easy"], "worth": {"arc/acc": 0.1}}, "no metric is called 'arc/acc'"),
    ],
)
def test_what_a_recipe_cannot_mean(fields, why):
    with pytest.raises(ValueError, match=why):
        Compare.model_validate({"policies": ["$base"]} | fields)


def test_a_task_of_ones_own_is_its_yaml_what_that_includes_its_code_and_its_data(folder):
    (folder / "helpers.py").write_text("def text(doc): return doc['question']\n")
    (folder / "written.yaml").write_text(f"{WRITTEN}doc_to_text: !function helpers.text\n")
    files = Benchmark(task=str(folder / "written.yaml")).files(folder)
    assert [file.name for file in files] == [
        "written.yaml", "places.yaml", "places.jsonl", "shots.jsonl", "helpers.py"
    ]  # fmt: skip


def test_without_lm_eval_the_extra_is_named(folder, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("align.evals.harness.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(DependencyError, match=r"they need pip install 'align\[eval\]'"):
        exams([Benchmark(task="arc_easy")], folder)
    assert exams([], folder) == []


RECIPE = """
name: it
models: {{base: {{path: model}}}}
data: {{demos: {{path: toy, options: {{kind: demonstrations}}}}}}
stages:
  loop:
    rounds: 2
    start: {{policy: $base}}
    stages:
      tune: {{stage: sft, policy: $policy, data: $demos}}
      result: {{stage: compare, policies: [$policy, $tune], benchmarks: [written.yaml]}}
    next: {{policy: $tune}}
    gate: {{metric: {metric}, max_decrease: 0.1}}
"""


def test_a_recipe_keys_what_a_task_reads_and_its_gates_know_its_metrics(folder):
    (folder / "model").mkdir()

    def key(file, *lines, metric="written/exact_match"):
        (folder / "it.yaml").write_text(RECIPE.format(metric=metric))
        (folder / file).write_text("".join(lines) or (folder / file).read_text())
        made = load(folder / "it.yaml").keys(lambda path: sha256_of_file(path) if path.is_file() else "")
        return made["loop@1.result"].value

    first = key("places.yaml")
    assert key("likely.yaml", "task: other\n") == first
    changed = [key("shots.jsonl", json.dumps(DOCUMENTS[0])), key("places.yaml", CHOICES, "repeats: 2\n")]
    assert len({first, *changed}) == 3
    with pytest.raises(RecipeError, match="'result' measures no 'writen/exact_match'"):
        key("places.yaml", metric="writen/exact_match")
