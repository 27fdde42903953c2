"""Shared beginnings: what a row looks like, by hand, and that each token sees its own sequence and nothing else."""

import numpy as np

from align.data.trie import batches

WALK = [[1, 2, 3, 4], [1, 2, 5], [1, 6, 3, 4], [1, 2, 3, 9]]


def test_a_row_by_hand():
    """Walked in order 1234, 1239, 125, 1634; the last token of each predicts nothing and is left out."""
    ((members, batch),) = batches(WALK, [1, 1, 1, 2], 100)
    assert members == [0, 3, 1, 2]
    assert batch.ids.tolist() == [[1, 2, 3, 6, 3]]
    assert batch.positions.tolist() == [[0, 1, 2, 1, 2]]
    assert batch.until.tolist() == [[5, 3, 3, 5, 5]]
    assert batch.source.tolist() == [2, 1, 2, 1, 4] and batch.target.tolist() == [4, 3, 9, 5, 4]
    assert batch.owner.tolist() == [0, 1, 1, 2, 3] and batch.last.tolist() == [2, 2, 1, 4]
    assert batch.tokens == 5


def test_every_token_sees_its_own_sequence_whatever_the_rows():
    draw = np.random.default_rng(0)
    sequences = [[0, *draw.integers(0, 3, draw.integers(2, 9)).tolist()] for _ in range(60)]
    for budget in (10, 24, 500):
        seen = []
        for members, batch in batches(sequences, [2] * 60, budget):
            width = batch.ids.shape[1]
            assert batch.ids.numel() <= budget
            for n, member in enumerate(members):
                at = batch.source[batch.owner == n].tolist()
                row, last = divmod(at[-1], width)
                visible = [k for k in range(last + 1) if last < batch.until[row, k]]
                assert batch.ids[row, visible].tolist() == sequences[member][:-1]
                assert batch.positions[row, visible].tolist() == list(range(len(visible)))
                assert batch.target[batch.owner == n].tolist() == sequences[member][-2:]
            seen += members
        assert sorted(seen) == list(range(60))
