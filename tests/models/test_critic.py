"""Critics: a value stands where its token is predicted, whichever backbone it comes from."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from align.data.tree import collate
from align.models.critic import ActorCritic, value_head
from align.models.logprobs import LanguageModel, RewardModel


def own_values(backbone, weight, pairs) -> torch.Tensor:
    """Each reply alone in its row; the value of a token from the hidden state before it."""
    made = []
    for tree in pairs:
        for reply in tree.replies:
            ids = torch.tensor([[*tree.prompt.tolist(), *reply.ids.tolist()]])
            hidden = backbone(input_ids=ids).last_hidden_state[0, len(tree.prompt) - 1 : -1]
            made.append(hidden @ weight)
    return torch.cat(made)


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_values_of_both_kinds_of_critic(layout, tiny, pairs):
    policy = tiny("llama")
    config = tiny("llama", seed=1).config
    config.num_labels = 1
    judge = AutoModelForSequenceClassification.from_config(config).eval()
    head = value_head(32)
    torch.nn.init.normal_(head.weight)
    batch = collate(pairs, layout)
    with torch.no_grad():
        apart = ActorCritic(LanguageModel(policy), RewardModel(judge))(batch)
        shared = ActorCritic(LanguageModel(policy), critic_head=head)(batch, entropy=True)
        alone = ActorCritic(LanguageModel(policy))(batch)
        expected = own_values(judge.model, judge.score.weight[0], pairs)
        expected_shared = own_values(policy.model, head.weight[0], pairs)
    torch.testing.assert_close(apart.values, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(shared.values, expected_shared, atol=2e-5, rtol=1e-4)
    assert alone.values is None and alone.entropy is None and shared.entropy is not None
    assert torch.equal(apart.logp, alone.logp) and torch.equal(shared.logp, alone.logp)


def test_a_shared_head_sends_its_gradient_into_the_trunk_and_a_new_one_expects_nothing(tiny, pairs):
    policy, head = tiny("llama"), value_head(32)
    module = ActorCritic(LanguageModel(policy), critic_head=head)
    assert not module(collate(pairs)).values.any()
    torch.nn.init.normal_(head.weight)
    module(collate(pairs)).values.sum().backward()
    assert policy.model.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0
