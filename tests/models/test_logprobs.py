"""Log-probs and scores: exact values, exact gradients, the same in every layout, and nothing large kept alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from align.data.tree import Reply, Tree, collate
from align.errors import CheckError
from align.models import logprobs
from align.models.logprobs import LanguageModel, Projection, RewardModel, score
from tests.models.test_blocks import Largest

FAMILIES = ["gpt2", "llama", "qwen2", "qwen3", "gemma", "mixtral"]
PROJECTIONS = [Projection(), Projection(0.7, None, 1.3), Projection(1.5, 2.0, 0.7)]


def own_logps(model: Any, trees: list[Tree]) -> list[Tensor]:
    """By the model's own logits, each reply alone."""
    made = []
    for tree in trees:
        for reply in tree.replies:
            ids = torch.from_numpy(np.concatenate([tree.prompt, reply.ids])).long()
            logits = model(input_ids=ids[None]).logits[0, len(tree.prompt) - 1 : -1]
            made.append(logits.log_softmax(-1).gather(-1, ids[len(tree.prompt) :, None])[:, 0])
    return made


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_alone_padded_packed_and_tree_are_the_same(tiny: Callable[..., Any], pairs: list[Tree], family: str) -> None:
    """Trap 19, values and gradients: replies alone in a row, padded rows, one tree a row, and trees sharing a row."""
    model, trees = tiny(family), pairs
    own = torch.cat(own_logps(model, trees))
    weights = torch.linspace(-1, 2, len(own))
    wanted = gradients(model, (own * weights).sum())
    scale = max(g.abs().max().item() for g in wanted.values())
    packed = collate(trees)
    assert len(packed.ids) < len(trees), "no row is shared, so packing is not tested"
    layouts = {"padded": collate(trees, "plain"), "packed": packed}
    for name, batch in layouts.items():
        logp = LanguageModel(model)(batch).logp
        torch.testing.assert_close(logp, own, atol=2e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        found = gradients(model, (logp * weights).sum())
        assert found.keys() == wanted.keys()
        worst = max((found[k] - wanted[k]).abs().max().item() for k in wanted)
        assert worst < 2e-5 * scale, name
    with torch.no_grad():
        alone = torch.cat([LanguageModel(model)(collate([tree])).logp for tree in trees])
    torch.testing.assert_close(alone, own, atol=2e-5, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_reads_the_mask_alike(tiny: Callable[..., Any], pairs: list[Tree], attention: str) -> None:
    model, trees = tiny("llama"), pairs
    model.set_attn_implementation(attention)
    with torch.no_grad():
        logp = LanguageModel(model)(collate(trees)).logp
        torch.testing.assert_close(logp, torch.cat(own_logps(model, trees)), atol=2e-5, rtol=0)


def test_a_reply_does_not_see_its_sibling(tiny: Callable[..., Any], pairs: list[Tree]) -> None:
    model, (tree, *_) = tiny("llama"), pairs
    other = Tree("other", tree.prompt, (Reply(tree.replies[0].ids[::-1].copy()), tree.replies[1]))
    with torch.no_grad():
        first, second = (LanguageModel(model)(collate([t])).logp for t in (tree, other))
    assert torch.equal(first[7:], second[7:])
    assert not torch.allclose(first[:7], second[:7])


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_score_is_exact_and_so_is_its_gradient(
    monkeypatch: pytest.MonkeyPatch, projection: Projection, entropy: bool
) -> None:
    """Against torch's own categorical distribution, and by finite differences, over chunks of two rows."""
    monkeypatch.setattr(logprobs, "chunk", lambda weight: 2)
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(s, dtype=torch.double, requires_grad=True) for s in ((7, 5), (11, 5), (11,)))
    target = torch.randint(11, (7,))
    logits = (hidden @ weight.T + bias) * projection.scale
    logits = logits if projection.cap is None else projection.cap * torch.tanh(logits / projection.cap)
    wanted = torch.distributions.Categorical(logits=logits / projection.temperature)
    found = score(hidden, weight, bias, target, projection, entropy)
    torch.testing.assert_close(found.logp, wanted.log_prob(target))
    if entropy:
        torch.testing.assert_close(found.entropy, wanted.entropy())

    def values(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for x in score(*inputs, target, projection, entropy) if x is not None)

    # a second backward pass computes what the first one found kept, so their last digits differ
    assert torch.autograd.gradcheck(values, (hidden, weight, bias), nondet_tol=1e-12)


@pytest.mark.parametrize(("rows", "projected"), [(2, 1), (3, 3), (6, 5)])
def test_the_chunk_where_both_passes_meet_is_projected_once(
    monkeypatch: pytest.MonkeyPatch, rows: int, projected: int
) -> None:
    """Chunks of two rows. A second backward pass over the same graph projects again, and its gradient is the same."""
    monkeypatch.setattr(logprobs, "chunk", lambda weight: 2)
    calls: list[int] = []
    logits = Projection.logits
    monkeypatch.setattr(Projection, "logits", lambda self, *given: calls.append(1) or logits(self, *given))
    hidden, weight = torch.randn(rows, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    loss = score(hidden, weight, None, torch.arange(rows), Projection()).logp.sum()
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    assert len(calls) == projected
    again = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(first, again)


def test_nothing_scored_is_no_error() -> None:
    hidden, weight = torch.randn(0, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    score(hidden, weight, None, torch.zeros(0, dtype=torch.long), Projection()).logp.sum().backward()
    assert weight.grad is not None and not weight.grad.any()


def test_no_logits_outlive_their_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps for the backward pass is linear in tokens: no tensor has (tokens x vocabulary) numbers."""
    monkeypatch.setattr(logprobs, "chunk", lambda weight: 4)
    hidden, weight = torch.randn(64, 8, requires_grad=True), torch.randn(1000, 8, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        score(hidden, weight, None, torch.randint(1000, (64,)), Projection())
    assert 0 < max(kept) <= weight.numel()


def test_a_vocabulary_of_128_thousand_is_not_the_peak() -> None:
    """With gradients for all, no operation makes more numbers at once than a chunk of logits or the weights have."""
    hidden, weight = torch.randn(320, 64, requires_grad=True), torch.randn(2**17, 64, requires_grad=True)
    with Largest() as largest:
        score(hidden, weight, None, torch.arange(320), Projection()).logp.sum().backward()
    assert largest.numbers == logprobs.CHUNK == weight.numel() < 320 * 2**17 / 4


def test_chunks_of_a_large_vocabulary_have_rows_enough() -> None:
    """Of few rows, reading the weight again for each chunk would take most of the time."""
    sizes = [(2**13, 128), (2**17, 64), (2**17, 200), (2**17, 2048), (2**30, 4096)]
    rows = [logprobs.chunk(torch.empty(size, device="meta")) for size in sizes]
    assert rows == [1024, 64, 200, logprobs.WIDE, logprobs.WIDE]


def test_a_low_precision_policy_answers_in_float32(tiny: Callable[..., Any], pairs: list[Tree]) -> None:
    model, trees = tiny("llama"), pairs
    with torch.no_grad():
        exact = LanguageModel(model)(collate(trees)).logp
        with torch.autocast("cpu", torch.bfloat16):
            cast = LanguageModel(model)(collate(trees)).logp
        narrow = LanguageModel(model.to(torch.bfloat16))(collate(trees)).logp
    assert cast.dtype == narrow.dtype == torch.float32
    assert (cast - exact).abs().mean() < 0.1 and (narrow - exact).abs().mean() < 0.1


def test_adapters_are_used_and_get_gradients(tiny: Callable[..., Any], pairs: list[Tree]) -> None:
    from peft import LoraConfig, get_peft_model

    model, trees = tiny("llama"), pairs
    before = torch.cat(own_logps(model, trees)).detach()
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    module = LanguageModel(tuned)
    logp = module(collate(trees)).logp
    assert not torch.allclose(logp, before, atol=1e-3)
    logp.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters() if p.requires_grad)
    with tuned.disable_adapter(), torch.no_grad():
        torch.testing.assert_close(module(collate(trees)).logp, before, atol=2e-5, rtol=0)


@pytest.mark.parametrize("where", ["target_modules", "modules_to_save"])
def test_an_adapter_on_the_head_is_refused_not_ignored(tiny: Callable[..., Any], pairs: list[Tree], where: str) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], where: ["lm_head"]})  # type: ignore[arg-type]
    with pytest.raises(CheckError, match="lm_head"):
        LanguageModel(get_peft_model(tiny("llama"), lora))(collate(pairs))


def test_a_score_is_read_at_the_last_token_of_each_reply(tiny: Callable[..., Any], pairs: list[Tree]) -> None:
    """Trap 7: against transformers' own classifier on each reply alone, without padding."""
    from transformers import AutoModelForSequenceClassification

    config = tiny("qwen2").config
    config.num_labels = 1
    model, trees = AutoModelForSequenceClassification.from_config(config).eval(), pairs
    rows = [np.concatenate([t.prompt, r.ids]) for t in trees for r in t.replies]
    with torch.no_grad():
        own = torch.cat([model(input_ids=torch.from_numpy(row).long()[None]).logits[:, 0] for row in rows])
        for layout in ("tree", "plain"):
            found = RewardModel(model)(collate(trees, layout))  # type: ignore[arg-type]
            torch.testing.assert_close(found, own, atol=1e-5, rtol=0)


def test_scores_of_a_narrow_backbone_are_not_rounded(tiny: Callable[..., Any], pairs: list[Tree]) -> None:
    """Under autocast too: rounded to bfloat16, scores of about 3 lie 1/64 apart, and rewards tie."""
    from transformers import AutoModelForSequenceClassification

    config = tiny("qwen2").config
    config.num_labels = 1
    batch = collate(pairs)
    for dtype in (torch.float32, torch.bfloat16):
        model: Any = AutoModelForSequenceClassification.from_config(config, dtype=dtype).eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            found = RewardModel(model)(batch)
            hidden = logprobs.hidden_states(model, batch)[batch.last]
        torch.testing.assert_close(found, hidden.float() @ model.score.weight[0].float(), atol=1e-6, rtol=1e-6)
        assert not torch.equal(found, found.bfloat16().float())
