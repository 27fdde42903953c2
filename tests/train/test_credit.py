"""Credit: the score at the last sampled token, the price of KL at every one, each counted once."""

import math

import numpy as np
import pytest

from align.data.tree import Reply, Tree
from align.train.credit import Credit, Moments
from align.train.online_fields import Gae, Kl

STOP, PAD = 1, 2


def tree(*replies: list[int], value: float = 0.5) -> Tree:
    """Every token has log-prob -1, and -1.25 under the reference: 0.25 nats of k1."""

    def reply(ids: list[int]) -> Reply:
        flat = np.ones(len(ids), np.float32)
        return Reply(np.array(ids, np.int32), numbers={"logp": -flat, "reference": -1.25 * flat, "value": value * flat})

    return Tree("t", np.array([STOP, 7], np.int32), tuple(map(reply, replies)))  # a stop id inside the prompt


def credit(advantage="gae", gamma=1.0, decay=1.0, whiten=False, **kl) -> Credit:
    return Credit(advantage, Gae(gamma=gamma, **{"lambda": decay}), Kl(**kl), False, whiten)


@pytest.mark.parametrize(
    "ids",
    [[5, 6, STOP], [5, 6, 7], [5, STOP, 7], [5, PAD, PAD], [STOP], [9]],
    ids=["stopped", "cut", "a stop id within", "ends in pad ids", "one token, the stop", "one token"],
)
def test_the_score_lies_at_the_last_sampled_token(ids):
    """Traps 7 and 10: neither stop nor pad ids say where a reply ends; its own length does. With lambda 0 and a critic
    that expects nothing a token's advantage is its reward."""
    beside = [5, 6, 7, 8, 9]  # longer, so that there is a tail to go wrong in
    (made,) = credit(decay=0.0).assign([tree(ids, beside, value=0.0)], np.array([[3.0, 4.0]]), 0.0)
    one, other = (reply.numbers["advantage"].tolist() for reply in made.replies)
    assert one == [0.0] * (len(ids) - 1) + [3.0] and other == [0.0] * 4 + [4.0]


def test_kl_is_paid_once_where_it_is_asked_for():
    """Trap 22. A coefficient of 0.2 on 0.25 nats is 0.05 a token; in the loss it costs no reward."""
    one = [tree([5, 6, STOP])]
    paid = credit("reinforce++").assign(one, np.array([[1.0]]), 0.2)[0].replies[0].numbers
    assert paid["advantage"] == pytest.approx([0.85, 0.9, 0.95])
    assert paid.keys() == {"logp", "advantage"}
    free = credit("reinforce++", where="loss", estimator="k3").assign(one, np.array([[1.0]]), 0.2)[0].replies[0].numbers
    assert free["advantage"] == pytest.approx([1.0, 1.0, 1.0])
    assert free.keys() == {"logp", "reference", "advantage"}
    ratio = math.exp(-0.25)
    for name, price in (("k2", 0.25**2 / 2), ("k3", ratio - 1 + 0.25)):
        made = credit("reinforce++", estimator=name).assign(one, np.array([[0.0]]), 1.0)[0].replies[0].numbers
        assert made["advantage"] == pytest.approx([-3 * price, -2 * price, -price], abs=1e-6)


def test_gae_and_its_returns():
    """With lambda 1 the return is what follows: 2 - 0.3, 2 - 0.2, 2 - 0.1 less nothing; the value was 0.5."""
    made = credit(coefficient=0.4).assign([tree([5, 6, STOP])], np.array([[2.0]]), 0.4)[0].replies[0].numbers
    assert made["return"] == pytest.approx([1.7, 1.8, 1.9])
    assert made["advantage"] == pytest.approx([1.2, 1.3, 1.4])
    assert made["value"] == pytest.approx([0.5] * 3) and "reference" not in made


@pytest.mark.parametrize(("advantage", "expected"), [("rloo", [-1.0, 1.0]), ("grpo", [-(0.5**0.5), 0.5**0.5])])
def test_replies_of_a_group_share_one_advantage_each(advantage, expected):
    """Scores less KL are 1 and 2; each is compared with the other, the standard deviation is the root of 1/2."""
    group = tree([5, 6, STOP], [8])  # 0.75 and 0.25 nats; at 0.1 they cost 0.075 and 0.025
    scores = np.array([[1.075, 2.025]])
    made = credit(advantage).assign([group, group], np.repeat(scores, 2, 0), 0.1)
    for replies in (tree.replies for tree in made):
        assert replies[0].numbers["advantage"] == pytest.approx([expected[0]] * 3, abs=1e-3)
        assert replies[1].numbers["advantage"] == pytest.approx([expected[1]], abs=1e-3)


def test_whitening_is_over_tokens():
    """Tokens, not replies, have mean 0: three of one reply against one of the other."""
    group = tree([5, 6, STOP], [8])
    made = credit("rloo", whiten=True, coefficient=0.0).assign([group], np.array([[1.0, 2.0]]), 0.0)[0]
    flat = np.concatenate([reply.numbers["advantage"] for reply in made.replies])
    assert flat.mean() == pytest.approx(0, abs=1e-6) and flat.std() == pytest.approx(1, abs=1e-6)
    assert flat == pytest.approx([-(3**-0.5)] * 3 + [3**0.5], abs=1e-5)


def test_running_moments_are_those_of_all_numbers_together():
    """By numpy, on numbers far from 0, where sums of squares lose all digits."""
    batches = [1e6 + np.random.default_rng(seed).normal(size=(3, seed + 1)) for seed in range(4)]
    moments = Moments()
    for batch in batches:
        moments = moments.joined(batch)
    whole = np.concatenate([batch.ravel() for batch in batches])
    expected = (batches[-1] - whole.mean()) / whole.std()
    assert moments.normal(batches[-1]) == pytest.approx(expected, rel=1e-6)
    assert Moments().joined(np.full((2, 2), 3.0)).normal(np.full((2, 2), 3.0)) == pytest.approx(0)
