"""What a policy answers through us is what lm_eval's own model class gets from the same weights and texts."""

import json

import pytest

from align.config import Model
from align.evals.benchmarks import Benchmark
from align.evals.evaluate import Subject
from align.machine import Machine
from align.stage import Context, PolicyRef
from align.store import Store

lm_eval = pytest.importorskip("lm_eval", reason="needs pip install 'align[eval]'")

NAMES = ("Tom", "Lily", "Ben", "Sue", "Max", "Mia")
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: rows.jsonl}}}}
training_split: test
test_split: test
num_fewshot: 2
doc_to_text: "Once upon a time, {{{{name}}}} had a"
doc_to_target: "{{{{choices[0]}}}}"
"""
CHOICES = """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITTEN = """
output_type: generate_until
generation_kwargs: {until: ["."], max_gen_toks: 24}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("choices", CHOICES), ("written", WRITTEN)])
def test_a_raw_policy_answers_as_lm_evals_own_model_does(shared, tmp_path, name, kind):
    from lm_eval.models.huggingface import HFLM

    from align.evals.harness.tasks import SHOTS_SEED, load, sit

    rows = [{"name": who, "choices": ["big red ball", "friend named Tim", "xylophone"]} for who in NAMES]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "it.yaml").write_text(TASK.format(name=name) + kind)
    inputs = {"stories": Model(path=str(shared / "models/stories260K"), template="raw")}
    machine, store = Machine(device="cpu"), Store(tmp_path / "store")
    context = Context("it", "it", "key", 0, inputs, {}, store, machine, tmp_path, tmp_path)
    subject, exam = Subject(context, PolicyRef("stories")), load(Benchmark(task=str(tmp_path / "it.yaml")), tmp_path)
    ours = [row["answered"] for row in sit(subject, exam)]
    exam.tasks[name].set_fewshot_seed(SHOTS_SEED)
    policy = subject.policy
    model = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, add_bos_token=True, batch_size=2)
    found = lm_eval.evaluate(lm=model, task_dict={"tasks": exam.tasks}, log_samples=True, bootstrap_iters=0)
    for answered, sample in zip(ours, found["samples"][name], strict=True):
        theirs = [replies[0] for replies in sample["resps"]]
        if name == "choices":
            assert answered == pytest.approx([logp for logp, _ in theirs], abs=1e-3)
        else:
            assert [text.strip() for text in answered] == [text.strip() for text in theirs]
