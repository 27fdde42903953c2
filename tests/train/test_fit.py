"""The learner and the loop: no split of a step changes it, no stop changes a run, and nothing fails in silence."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from align.config import Optim
from align.data.tree import Reply, Tree
from align.errors import CheckError, DependencyError, Interrupted, TrainingError
from align.machine import Machine
from align.models.logprobs import LanguageModel
from align.stage import Context
from align.store import Store
from align.train import checkpoint as checkpoints
from align.train.fields import Checkpoint, Validation
from align.train.fit import fit, rows_of, step_count
from align.train.learner import Learner, accelerator, schedule
from align.train.objectives import direct_preference, next_token

OPTIM = Optim(batch_size=8, warmup=0.0, weight_decay=0.1)


def model(seed: int = 0, tied: bool = False, dropout: float = 0.0) -> LanguageModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied, attention_dropout=dropout,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config))


def trees(count: int, seed: int = 0, replies: int = 2) -> list[Tree]:
    random = np.random.default_rng(seed)

    def ids(low: int, high: int) -> np.ndarray:
        return random.integers(3, 40, random.integers(low, high)).astype(np.int32)

    numbers = {"label": 1.0, "weight": 1.0, "margin": 0.0, "reference_chosen": -8.0, "reference_rejected": -8.0}
    return [Tree(f"row{i}", ids(2, 9), tuple(Reply(ids(2, 9)) for _ in range(replies)), numbers) for i in range(count)]


def learner(
    module: LanguageModel, steps: int = 8, max_tokens: int = 4096, optim: Optim = OPTIM, lr: float = 1e-2
) -> Learner:
    machine = Machine(device="cpu", max_tokens=max_tokens)
    return Learner(module, optim, lr=lr, steps=steps, accelerator=accelerator(machine), machine=machine, seed=3)


def context(folder, **values) -> Context:
    (folder / "work").mkdir(exist_ok=True)
    return Context(
        stage="tune", type="sft", key="k", seed=0, inputs={}, keys={}, store=Store(folder),
        machine=Machine(device="cpu"),
        work=folder / "work", out=folder / "out", **values,
    )  # fmt: skip


def weights(module: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize(
    "objective",
    [
        next_token,
        *(direct_preference(name, 0.3) for name in ("sigmoid", "robust", "ipo", "hinge", "simpo", "orpo")),
        direct_preference("sigmoid", 0.3, nll=0.5),
    ],
)
def test_a_step_does_not_depend_on_how_it_is_cut(objective):
    """Trap 20: 1 x 8 = 8 x 1 = mixed, for each loss, although rows have different numbers of tokens."""
    whole, single, mixed = model(), model(), model()
    rows = trees(8)
    metrics = [
        learner(module, max_tokens=size).update(objective, rows)
        for module, size in ((whole, 4096), (single, 16), (mixed, 60))
    ]
    for other in (single, mixed):
        for name, p in whole.named_parameters():
            torch.testing.assert_close(p, dict(other.named_parameters())[name], atol=2e-5, rtol=1e-4)
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-4)
    assert metrics[2] == pytest.approx(metrics[0], abs=1e-4)


def test_the_loss_is_the_mean_over_tokens_of_the_whole_step():
    module, rows = model(), trees(8, replies=1)
    expected = [
        torch.nn.functional.cross_entropy(
            module.model(input_ids=torch.from_numpy(np.concatenate([t.prompt, t.replies[0].ids])).long()[None]).logits[
                0, len(t.prompt) - 1 : -1
            ],
            torch.from_numpy(t.replies[0].ids).long(),
            reduction="none",
        )
        for t in rows
    ]
    assert learner(module, max_tokens=20).update(next_token, rows)["loss"] == pytest.approx(
        torch.cat(expected).mean().item(), abs=1e-5
    )


def test_schedule_by_hand():
    linear = Optim(warmup=0.2, schedule="linear", final_lr=0.1)
    assert [schedule(linear, s, 10) for s in (0, 1, 2, 6)] == pytest.approx([0.5, 1.0, 1.0, 0.1 + 0.9 * 0.5])
    cosine = Optim(warmup=0.0, schedule="cosine")
    assert [schedule(cosine, s, 4) for s in (0, 1, 2)] == pytest.approx([1.0, (1 + math.cos(math.pi / 4)) / 2, 0.5])


def test_steps_and_rows():
    assert step_count(100, 16, 2) == 12
    assert step_count(16, 16, 0.1) == 1
    with pytest.raises(CheckError, match="only 10 rows"):
        step_count(10, 16, 1)
    seen = [i for step in range(5) for i in rows_of(step, 10, 4, seed=1)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("objective", "dropout"), [(next_token, 0.0), (next_token, 0.3), (direct_preference("sigmoid", 0.3), 0.0)]
)
def test_stopping_and_going_on_changes_no_bit(tmp_path, objective, dropout, tied):
    """Trap 16: 3 steps, then 3 more in a new process's place, are 6: weights, moments, schedule, order, chance."""
    rows, straight = trees(30), model(tied=tied, dropout=dropout)
    expected = fit(context(tmp_path), learner(straight, 6), objective, rows, checkpoint=Checkpoint())

    stops = iter([0, 0, 1])
    other = tmp_path / "other"
    other.mkdir()
    stopped = context(other, stopping=lambda: next(stops))
    with pytest.raises(Interrupted):
        fit(stopped, learner(model(tied=tied, dropout=dropout), 6), objective, rows, checkpoint=Checkpoint())
    torch.manual_seed(7)  # as in another process
    resumed = model(seed=99, tied=tied, dropout=dropout)  # whatever it starts from is overwritten
    went_on = learner(resumed, 6)
    assert fit(context(other), went_on, objective, rows, checkpoint=Checkpoint()) == expected
    for name, p in straight.named_parameters():
        assert torch.equal(p, dict(resumed.named_parameters())[name]), name


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    """Trap 15: without its marker, or shorter than the marker says, a checkpoint is passed over for the one before."""
    fitted = learner(model())
    for seed in range(3):
        fitted.update(next_token, trees(8, seed))
        checkpoints.save(tmp_path, fitted, {"at": fitted.step}, keep=3)
    newest = checkpoints.complete(tmp_path)[-1]
    with (newest / "state.pt").open("r+b") as file:
        file.truncate(100)
    (checkpoints.complete(tmp_path)[-1] / "complete.json").unlink()
    fresh = learner(model(seed=5))
    assert checkpoints.load(tmp_path, fresh) == {"at": 1}
    assert fresh.step == 1
    fresh.update(next_token, trees(8, 1))
    checkpoints.save(tmp_path, fresh, {"at": 2}, keep=3)  # in place of the broken one
    assert [path.name[-1] for path in checkpoints.complete(tmp_path)] == ["1", "2"]


def test_checkpoints_are_retained_as_told(tmp_path):
    events = []
    ctx = context(tmp_path, emit=lambda event, **values: events.append(event))
    fit(ctx, learner(model()), next_token, trees(30), checkpoint=Checkpoint(every=1, keep=2))
    assert events == ["step", "saved"] * 7 + ["step"]
    kept = checkpoints.complete(tmp_path / "work" / "checkpoints")
    assert [path.name for path in kept] == ["step-00000006", "step-00000007"]


def test_training_that_changes_nothing_is_refused():
    """Trap 21: a tensor cut off from the loss is named by the third update."""
    module = model()
    module.model.model.layers[1].self_attn.o_proj.weight.register_hook(torch.zeros_like)
    stuck = learner(module, optim=OPTIM.model_copy(update={"weight_decay": 0.0}))
    stuck.update(next_token, trees(8))
    stuck.update(next_token, trees(8))
    with pytest.raises(TrainingError, match="o_proj"):
        stuck.update(next_token, trees(8))


def test_nan_stops_before_the_weights_change_and_names_the_rows():
    module, rows = model(), trees(8)
    before = weights(module)
    bad = dataclasses.replace(rows[5], numbers=rows[5].numbers | {"reference_chosen": math.nan})
    with pytest.raises(TrainingError, match="row5"):
        learner(module, max_tokens=16).update(direct_preference("sigmoid", 0.1), [*rows[:5], bad, *rows[6:]])
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_experts_without_a_token_are_named_and_not_fatal():
    module = model()
    module.model.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    fitted = learner(module)
    for seed in range(3):
        fitted.update(next_token, trees(8, seed))
    assert fitted.unrouted == ["model.experts.0.weight", "model.experts.0.bias"]


def test_a_metric_that_is_not_there_is_told_at_the_first_step(tmp_path):
    events = []
    validation = Validation(every=100, keep="best", metric="acuracy")
    told = context(tmp_path, emit=lambda event, **values: events.append(event))
    with pytest.raises(CheckError, match=r"no metric 'acuracy'. Did you mean 'accuracy'\?"):
        fit(
            told, learner(model()), direct_preference("sigmoid", 0.3), trees(16),
            checkpoint=Checkpoint(), validation=validation, held_out=trees(8),
        )  # fmt: skip
    assert "step" not in events


def test_a_held_out_loss_that_is_not_finite_stops_training(tmp_path):
    broken = [dataclasses.replace(t, numbers=t.numbers | {"reference_chosen": math.inf}) for t in trees(8)]
    with pytest.raises(TrainingError, match="step 1: the loss on the held-out rows is"):
        fit(
            context(tmp_path), learner(model()), direct_preference("sigmoid", 0.3), trees(16),
            checkpoint=Checkpoint(), validation=Validation(every=1), held_out=broken,
        )  # fmt: skip


def test_going_on_keeps_the_best_of_before(tmp_path):
    """Stopped after its best step was measured, a run goes back to that step's weights as an undisturbed one does."""
    validation, rows, held_out = Validation(every=1, keep="best"), trees(16), trees(16, seed=7)
    optim = OPTIM.model_copy(update={"schedule": "constant"})

    def run(folder, module, **values):
        folder.mkdir(exist_ok=True)
        fitted = learner(module, steps=8, optim=optim, lr=0.05)
        return fit(
            context(folder, **values), fitted, next_token, rows,
            checkpoint=Checkpoint(every=2), validation=validation, held_out=held_out,
        )  # fmt: skip

    straight, resumed, stops = model(), model(seed=9), iter([0, 0, 0, 0, 1])
    expected = run(tmp_path / "a", straight)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", model(), stopping=lambda: next(stops))
    assert run(tmp_path / "b", resumed) == expected
    assert expected["best_step"] < 5
    for name, p in straight.named_parameters():
        assert torch.equal(p, dict(resumed.named_parameters())[name]), name


def test_the_best_weights_of_a_checkpoint_outlive_a_second_kill(tmp_path):
    """On a GPU a run that goes on is not the same to the bit: what was the best step of the checkpoint may stay so,
    whatever was better after it the first time, and the time before."""

    class Killed(BaseException):
        pass

    def run(losses, stop=9):
        told = iter(losses)

        def evaluate(objective, trees):
            if (loss := next(told)) is None:
                raise Killed
            return {"loss": loss}

        fitted = learner(model(), steps=8)
        fitted.evaluate = evaluate
        return fit(
            context(tmp_path, stopping=lambda: fitted.step >= stop), fitted, next_token, trees(16),
            checkpoint=Checkpoint(every=2), validation=Validation(every=1, keep="best"), held_out=trees(8),
        )  # fmt: skip

    with pytest.raises(Interrupted):
        run([1.0, 0.9], stop=2)
    with pytest.raises(Killed):
        run([0.8, None])
    assert run([1.0] * 6)["best_step"] == 2


def test_cuda_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(DependencyError, match="finds no CUDA device"):
        accelerator(Machine(device="cuda"))
    assert accelerator(Machine(device="auto")).device.type == "cpu"


def test_keep_best_goes_back_to_the_best_weights(tmp_path):
    """The held-out rows are noise, so training longer makes them worse: the best step is an early one."""
    events = []
    module = model()
    fitted = learner(module, steps=12, optim=OPTIM.model_copy(update={"schedule": "constant"}), lr=0.05)
    metrics = fit(
        context(tmp_path, emit=lambda event, **values: events.append((event, values))), fitted, next_token, trees(16),
        checkpoint=Checkpoint(), validation=Validation(every=2, keep="best"), held_out=trees(16, seed=7),
    )  # fmt: skip
    measured = {v["step"]: v["validation_loss"] for e, v in events if e == "step" and "validation_loss" in v}
    assert list(measured) == [2, 4, 6, 8, 10, 12]
    best = min(measured, key=measured.__getitem__)
    assert metrics["best_step"] == best < 12
    assert fitted.evaluate(next_token, trees(16, seed=7))["loss"] == pytest.approx(measured[best], abs=1e-6)


def test_events_are_json_and_tell_speed_and_time_left(tmp_path):
    events = []
    fit(
        context(tmp_path, emit=lambda event, **values: events.append(values)), learner(model(), 2), next_token,
        trees(16), checkpoint=Checkpoint(),
    )  # fmt: skip
    assert [e["step"] for e in json.loads(json.dumps(events))] == [1, 2]
    assert events[-1]["seconds_left"] == 0 and events[0]["tokens_per_second"] > 0
