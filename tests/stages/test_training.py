"""The training stages as a recipe runs them: the loss that is named is the one that runs, from the right reference,
and a stage that was stopped ends with the same bits as one that was not."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid

from align.config import Data, Lora
from align.data.chat import Chat
from align.data.tree import Reply, Tree
from align.errors import CheckError, DataError, Interrupted, TrainingError
from align.models.policy import from_scratch, load_policy
from align.records import Message, Preference
from align.stages.dpo import DPO
from align.stages.pretrain import Pretrain
from align.stages.reward_model import RewardModel
from align.stages.sft import SFT
from align.store import Artifact
from align.train import session
from align.train.reference import _key
from tests.stages.conftest import SIZES, tokenizer

GOOD = ["the cat sat on the mat", "a happy dog ran", "so very good and happy", "the dog sat"]
BAD = ["bad log", "the sad cat fell off the log and ran", "so bad", "sad sad sad"]
ASKED = ["the cat and the dog", "a log", "then the cat", "so a dog fell"]
OPTIM = {"lr": 3e-3, "batch_size": 4, "schedule": "constant", "warmup": 0.0}
LORA = {"r": 4, "targets": ["q_proj", "v_proj"]}


@pytest.fixture
def pairs(rows):
    return rows("pairs", *(
        {"prompt": p, "chosen": c, "rejected": r} for p, c, r in zip(ASKED, GOOD, BAD, strict=True)
    ))  # fmt: skip


def made(stage, context, inputs, **values) -> tuple[Artifact, list[dict]]:
    """The artifact of a stage that was run in a fresh context, and its steps."""
    ctx = context(inputs, **values)
    stage.check(ctx)
    metrics = stage.run(ctx)
    steps = [e for e in context.events if e["event"] == "step"]
    kind = stage.makes
    (ctx.out / "manifest.json").write_text(json.dumps({"kind": kind, "key": "made", "metrics": metrics, "files": {}}))
    return Artifact(kind, "made", ctx.out, metrics), steps


def logps(artifact: Artifact, store=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and counts (pairs, 2) of the replies' log-probs, by the model's own logits, each row alone."""
    policy = load_policy(artifact, store=store)
    sums = torch.zeros(len(ASKED), 2, dtype=torch.double)
    counts = torch.zeros_like(sums)
    for i, (asked, *replies) in enumerate(zip(ASKED, GOOD, BAD, strict=True)):
        for j, reply in enumerate(replies):
            prompt = (Message("user", asked),)
            chat: Chat = policy.chat
            before, after = chat.prompt(prompt), chat.reply(prompt, (Message("assistant", reply),))
            with torch.no_grad():
                logits = policy.model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].double()
            sums[i, j] = logits.log_softmax(-1)[torch.arange(len(after)), after].sum()
            counts[i, j] = len(after)
    return sums, counts


def expected(loss: str, sums: torch.Tensor, reference: torch.Tensor, counts: torch.Tensor) -> float:
    """The formulas of the papers, written out once more; beta 0.3, gamma 0.5, nll 0.7, smoothing 0.1 if any."""
    chosen, rejected = (sums - reference).unbind(1)
    mean_chosen, mean_rejected = (sums / counts).unbind(1)
    h = 0.3 * (chosen - rejected)
    match loss:
        case "sigmoid":
            losses = -0.9 * logsigmoid(h) - 0.1 * logsigmoid(-h)
        case "rpo":
            losses = -logsigmoid(h) - 0.7 * mean_chosen
        case "robust":
            losses = (-0.9 * logsigmoid(h) + 0.1 * logsigmoid(-h)) / 0.8
        case "ipo":
            ratios = (sums - reference) / counts
            losses = (ratios[:, 0] - ratios[:, 1] - 1 / 0.6) ** 2
        case "hinge":
            losses = torch.clamp(1 - h, min=0)
        case "simpo":
            losses = -logsigmoid(0.3 * (mean_chosen - mean_rejected) - 0.5)
        case _:
            odds = [m - torch.log(1 - torch.exp(m)) for m in (mean_chosen, mean_rejected)]
            losses = -mean_chosen - 0.3 * logsigmoid(odds[0] - odds[1])
    return losses.mean().item()


@pytest.mark.parametrize("loss", ["sigmoid", "rpo", "robust", "ipo", "hinge", "simpo", "orpo"])
def test_the_loss_that_is_named_is_the_one_that_runs(loss, artifacts, context, pairs):
    """Trap 25. The second step's loss is that of the policy after one step, against the policy before it."""
    options: dict = {"loss": loss, "beta": 0.3}
    options |= {
        "sigmoid": {"smoothing": 0.1}, "robust": {"smoothing": 0.1}, "simpo": {"gamma": 0.5},
        "rpo": {"loss": "sigmoid", "nll": 0.7},
    }.get(loss, {})  # fmt: skip
    inputs = {"base": artifacts["base"], "pairs": pairs}
    stage = {"policy": "$base", "data": "$pairs", "max_length": 64, "optim": OPTIM, **options}
    reference, counts = logps(artifacts["base"])
    once, _ = made(DPO(**stage), context, inputs)
    after, _ = logps(once)
    for file in (once.path.parent / "work").rglob("*"):
        assert not file.is_file() or "checkpoints" not in str(file)  # nothing to go on from: the next run is fresh
    _, steps = made(DPO(**stage, epochs=2), context, inputs)
    assert [s["steps"] for s in steps] == [2, 2]
    assert steps[0]["loss"] == pytest.approx(expected(loss, reference, reference, counts), abs=1e-4)
    assert steps[1]["loss"] == pytest.approx(expected(loss, after, reference, counts), abs=1e-4)
    assert steps[1]["loss"] < steps[0]["loss"]


def test_the_reference_of_an_adapter_on_an_adapter_is_the_parent(artifacts, context, pairs, tmp_path):
    """Trap 1: log-ratios are 0 at step 0; what is stored is the parent loaded alone, not its base."""
    inputs = {"base": artifacts["base"], "pairs": pairs}
    sft = SFT(policy="$base", data="$pairs", lora=LORA, max_length=64, epochs=8, optim=OPTIM | {"lr": 0.02})
    tuned, _ = made(sft, context, inputs)
    parent = Artifact("policy", "parent", tmp_path / "parent")
    tuned.path.rename(parent.path)
    base = json.loads((parent.path / "base.json").read_text())
    assert base == {"artifact": "key-of-base"}
    ctx = context({"parent": parent, "pairs": pairs})
    dpo = DPO(policy="$parent", data="$pairs", lora=LORA, max_length=64, beta=0.3, optim=OPTIM)
    dpo.run(ctx)
    (first,) = [e for e in context.events if e["event"] == "step"]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-3)
    (stored,) = (ctx.store.inside / "cache" / "reference").rglob("logps.npy")
    alone, _ = logps(parent, ctx.store)
    bare, _ = logps(artifacts["base"])
    assert np.load(stored) == pytest.approx(alone.numpy(), abs=1e-3)
    assert np.abs(np.load(stored) - bare.numpy()).max() > 0.1


def tensors(folder) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}/{file.stem}/{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("kind", [SFT, RewardModel, DPO])
def test_a_stage_that_was_stopped_ends_with_the_same_bits(kind, lora, artifacts, context, pairs, tmp_path):
    """Trap 16, for each training stage, with and without an adapter."""
    inputs = {"base": artifacts["base"], "pairs": pairs}
    stage = kind(policy="$base", data="$pairs", lora=lora, max_length=64, epochs=4, optim=OPTIM)
    straight, _ = made(stage, context, inputs)
    whole = tensors(straight.path)
    straight.path.rename(tmp_path / "straight")
    stops = iter([False, True])
    with pytest.raises(Interrupted, match="step 2 of 4"):
        stage.run(dataclasses.replace(context(inputs), stopping=lambda: next(stops)))
    resumed, steps = made(stage, context, inputs)
    assert [s["step"] for s in steps] == [3, 4]
    again = tensors(resumed.path)
    assert whole.keys() == again.keys() and whole
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_recomputing_activations_changes_no_step(artifacts, context, pairs):
    inputs = {"base": artifacts["base"], "pairs": pairs}
    losses = []
    for lora in (None, Lora(**LORA)):
        stage = DPO(policy="$base", data="$pairs", lora=lora, max_length=64, epochs=3, optim=OPTIM)
        for checkpointing in (False, True):
            _, steps = made(stage, context, inputs, checkpointing=checkpointing)
            losses.append([s["loss"] for s in steps])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[3] == pytest.approx(losses[2], abs=1e-5)
    assert losses[2] != pytest.approx(losses[0], abs=1e-4)


def test_a_reward_model_is_tested_beside_a_ruler(artifacts, context, pairs):
    stage = RewardModel(policy="$base", data="$pairs", test="$pairs", max_length=64, epochs=12, optim=OPTIM)
    reward, _ = made(stage, context, {"base": artifacts["base"], "pairs": pairs})
    assert reward.metrics["test_accuracy"] == 1.0  # it has seen these
    assert reward.metrics["longer_wins"] == pytest.approx(2.5 / 4)  # won, lost, won, tied
    assert reward.metrics["length_accuracy"] == pytest.approx(2.5 / 4)
    assert reward.metrics["test_accuracy_low"] < 1 <= reward.metrics["test_accuracy_high"]
    curve = json.loads((reward.path / "calibration.json").read_text())
    assert sum(row["n"] for row in curve) == 4 and {row["happened"] for row in curve} == {1.0}


def test_what_would_train_wrongly_is_refused_before_anything_computes(artifacts, context, rows, pairs):
    inputs = {"base": artifacts["base"], "pairs": pairs}
    with pytest.raises(CheckError, match=r"batch_size is 8, but there are only 4 rows"):
        SFT(policy="$base", data="$pairs", max_length=64, optim={"batch_size": 8}).check(context(inputs))
    with pytest.raises(CheckError, match=r"max_length: 1024 is more than the model's 96 positions"):
        SFT(policy="$base", data="$pairs", optim=OPTIM).check(context(inputs))
    said = [(Message("assistant", word),) for word in ("cat", "dog")]
    soft = Preference("a", (Message("user", "the"),), *said, label=0.8)
    inputs["soft"] = rows("soft", *[soft.row()] * 4)
    with pytest.raises(CheckError, match="hinge takes no soft labels, but 4 pairs have one"):
        DPO(policy="$base", data="$soft", loss="hinge", max_length=64, optim=OPTIM).check(context(inputs))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "ipo", "smoothing": 0.1}, "smoothing has no effect with loss: ipo"),
        ({"gamma": 1.0}, "gamma has no effect with loss: sigmoid"),
        ({"loss": "robust"}, "robust without smoothing"),
        ({"loss": "orpo", "nll": 0.5}, "orpo is the nll of the chosen reply"),
        ({"lora": {"dropout": 0.1}}, r"lora.dropout must be 0 in dpo"),
        ({"validation": {"share": 0.1, "data": "$x"}}, "share has no effect where data is given"),
    ],
)
def test_fields_that_would_have_no_effect_are_refused(fields, message):
    """Trap 11."""
    with pytest.raises(ValueError, match=message):
        DPO(policy="$base", data="$pairs", **fields)


def test_steps_reach_a_tracker(artifacts, context, pairs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stage = SFT(policy="$base", data="$pairs", max_length=64, epochs=3, optim=OPTIM)
    ctx = context({"base": artifacts["base"], "pairs": pairs}, track=["tensorboard"])
    stage.run(ctx)
    (file,) = ctx.store.inside.glob("tracking/it-key/events*")
    read = EventAccumulator(str(file))
    read.Reload()
    steps = [e for e in context.events if e["event"] == "step"]
    assert [round(point.value, 4) for point in read.Scalars("loss")] == [round(step["loss"], 4) for step in steps]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_narrow_policy_starts_from_itself_too(lora, artifacts, context, pairs, tmp_path):
    """Trap 1 in bfloat16: weights that train are float32, and the reference is computed as the training computes."""
    policy, folder = load_policy(artifacts["base"]), tmp_path / "narrow"
    narrow = policy.contract.model_copy(update={"dtype": "bfloat16"})
    dataclasses.replace(policy, contract=narrow).save(folder, "narrow")
    stage = DPO(policy="$base", data="$pairs", lora=lora, max_length=64, epochs=2, beta=1.0, optim=OPTIM)
    _, steps = made(stage, context, {"base": Artifact("policy", "narrow", folder), "pairs": pairs})
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert steps[1]["loss"] < steps[0]["loss"]


def test_dropout_ends_where_a_reference_begins(artifacts, context, pairs, tmp_path, monkeypatch):
    """Trap 1: a policy that drops out is turned off, and one whose dropout nobody knows of does not get to train."""
    folder = tmp_path / "dropping"
    from_scratch(SIZES | {"attention_dropout": 0.5}, tokenizer(), template="plain").save(folder, "dropping")
    inputs = {"base": Artifact("policy", "dropping", folder), "pairs": pairs}
    stage = DPO(policy="$base", data="$pairs", max_length=64, beta=1.0, optim=OPTIM)
    _, steps = made(stage, context, inputs)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    monkeypatch.setattr(session, "without_dropout", lambda module: None)
    with pytest.raises(TrainingError, match="not the policy that begins to train"):
        stage.run(context(inputs))


@pytest.mark.parametrize("stage", [RewardModel, DPO], ids=["reward", "simpo"])
def test_pairs_are_compared_without_dropout(stage, artifacts, context, pairs, tmp_path):
    """Trap 1, where no reference asks for it: what is drawn apart for the two replies would be taken for a lead."""
    fields = {"loss": "simpo"} if stage is DPO else {}
    made_of = stage(policy="$base", data="$pairs", max_length=64, optim=OPTIM, **fields)
    losses = []
    for dropout in (0.0, 0.5):
        folder = tmp_path / f"dropping-{dropout}"
        from_scratch(SIZES | {"attention_dropout": dropout}, tokenizer(), template="plain").save(folder, "dropping")
        _, steps = made(made_of, context, {"base": Artifact("policy", "dropping", folder), "pairs": pairs})
        losses.append([step["loss"] for step in steps])
    assert losses[0] == losses[1]


def test_log_probs_of_a_reference_are_known_by_all_that_makes_them(artifacts):
    """Trap 18: by the model, its precision, and the very tokens, which of them count included."""
    policy = load_policy(artifacts["base"])
    ids = np.arange(5, 9, dtype=np.int32)
    tree = Tree("a", ids[:2], (Reply(ids), Reply(ids[:3])))
    narrow = dataclasses.replace(policy, contract=policy.contract.model_copy(update={"dtype": "bfloat16"}))
    others = [
        Tree("a", ids[1:3], tree.replies),
        Tree("a", ids[:2], (Reply(ids + 1), Reply(ids[:3]))),
        Tree("a", ids[:2], (Reply(ids, np.array([True, True, True, False])), Reply(ids[:3]))),
        Tree("a", ids[:1], (Reply(np.concatenate([ids[1:2], ids])), Reply(ids[:3]))),
        Tree("a", ids[:2], tree.replies[::-1]),
    ]
    known = [_key("of-base", policy, [tree]), _key("of-tuned", policy, [tree]), _key("of-base", narrow, [tree])]
    known += [_key("of-base", policy, [other]) for other in others] + [_key("of-base", policy, [tree, tree])]
    assert len(set(known)) == len(known)
    named = dataclasses.replace(tree, id="b", numbers={"label": 0.6})
    assert _key("of-base", policy, [named]) == known[0]


def test_margins_count_as_much_as_a_recipe_says(artifacts, context, rows):
    """A head that is 0 leads by 0, so the loss is softplus(margin): 0.6931 for 0, 2.1269 for 2 x 1."""
    row = {"prompt": "the", "chosen": "cat", "rejected": "dog", "score_chosen": 3.0, "score_rejected": 2.0}
    inputs = {"base": artifacts["base"], "rated": rows("rated", *[row] * 4)}
    losses = []
    for margin in (0.0, 2.0):
        stage = RewardModel(policy="$base", data="$rated", margin=margin, centering=0, max_length=64, optim=OPTIM)
        stage.run(context(inputs))
        notes = [e["text"] for e in context.events if e["event"] == "note"]
        assert any("margins, which do not count" in note for note in notes) == (margin == 0)
        (step,) = [e for e in context.events if e["event"] == "step"]
        losses.append((step["loss"], step["margin"]))
    (plain, lead), (with_margin, same) = losses
    assert same == lead
    assert plain == pytest.approx(math.log1p(math.exp(-lead)), abs=1e-5)
    assert with_margin == pytest.approx(math.log1p(math.exp(2 - lead)), abs=1e-5)


def test_test_pairs_that_do_not_fit_are_told_before_training(artifacts, context, rows, pairs):
    long = {"prompt": "the cat", "chosen": "the dog sat " * 20, "rejected": "bad"}
    inputs = {"base": artifacts["base"], "pairs": pairs, "long": rows("long", long)}
    stage = RewardModel(policy="$base", data="$pairs", test="$long", max_length=32, optim=OPTIM)
    with pytest.raises(CheckError, match="longer than 32 tokens"):
        stage.check(context(inputs))


def test_labels_are_probabilities_and_robust_needs_some_trust(artifacts, context, rows):
    said = [(Message("assistant", word),) for word in ("cat", "dog")]
    with pytest.raises(DataError, match=r"label is 1\.5"):
        Preference("a", (Message("user", "the"),), *said, label=1.5)
    even = Preference("a", (Message("user", "the"),), *said, label=0.5)
    inputs = {"base": artifacts["base"], "even": rows("even", *[even.row()] * 4)}
    with pytest.raises(CheckError, match=r"p = 0\.50"):
        stage = DPO(policy="$base", data="$even", loss="robust", smoothing=0.1, max_length=64, optim=OPTIM)
        stage.check(context(inputs))


def test_float16_is_not_trained_in(artifacts, context, pairs, tmp_path):
    policy, folder = load_policy(artifacts["base"]), tmp_path / "half"
    half = policy.contract.model_copy(update={"dtype": "float16"})
    dataclasses.replace(policy, contract=half).save(folder, "half")
    with pytest.raises(CheckError, match="bfloat16 or float32"):
        SFT(policy="$base", data="$pairs", max_length=64, optim=OPTIM).check(
            context({"base": Artifact("policy", "half", folder), "pairs": pairs})
        )


def test_a_model_from_scratch_takes_a_template_from_beside_the_recipe(context, rows, tmp_path):
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    stage = Pretrain(
        data="$text", model=SIZES, tokenizer={"kind": "words"}, template="mine.jinja", max_length=32, optim=OPTIM
    )
    policy, _ = made(stage, context, {"text": rows("text", *[{"text": text} for text in GOOD])})
    assert load_policy(policy).contract.template.startswith("{% for m in messages %}[")


def test_rows_of_the_wrong_kind_are_refused_before_the_policy_is_there(context, tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"prompt": "a"}\n')
    stage = DPO.model_validate({"policy": "$unmade", "data": "$asked"})
    with pytest.raises(DataError, match="needs Preference records, found a Prompt"):
        stage.check(context({"asked": Data(path="asked.jsonl")}))
