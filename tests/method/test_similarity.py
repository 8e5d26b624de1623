"""Embeddings against the similarities they stand for."""

import pytest
import torch
import torch.nn.functional as F

from plca_dist.errors import UserError
from plca_dist.method.similarity import aligned_similarity, embed


def test_cosine_scores_are_eq_1(paper, draw):
    x, y = draw(1, 4, 2, 3), draw(1, 4, 3, 1, seed=1)
    of_x, of_y = embed(x, "cosine"), embed(y, "cosine")
    assert of_x.query is of_x.key
    assert of_x.cosine
    scores = F.normalize(of_x.query[0], dim=1) @ F.normalize(of_y.key[0], dim=1).mT
    expected = [[paper.similarity["cosine"](a, b) for b in paper.positions(y[0])] for a in paper.positions(x[0])]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


def test_kl_scores_are_eq_9_but_for_a_constant_of_the_row(paper, draw):
    x, y = draw(1, 4, 2, 3, similarity="kl"), draw(1, 4, 3, 1, seed=1, similarity="kl")
    scores = embed(x, "kl").query[0] @ embed(y, "kl").key[0].mT
    expected = [[paper.similarity["kl"](a, b) for b in paper.positions(y[0])] for a in paper.positions(x[0])]
    difference = scores - torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))
    entropies = [(p * p.log()).sum() for p in paper.positions(x[0])]
    torch.testing.assert_close(difference[:, 0], torch.stack(entropies), atol=1e-8, rtol=0)


@pytest.mark.parametrize("similarity", ["cosine", "kl"])
def test_aligned_similarity_is_the_similarity_itself(paper, draw, similarity):
    x, y = draw(2, 4, 2, 3, similarity=similarity), draw(2, 4, 2, 3, seed=1, similarity=similarity)
    found = aligned_similarity(embed(x, similarity), embed(y, similarity))
    for b in range(2):
        pairs = zip(paper.positions(x[b]), paper.positions(y[b]), strict=True)
        torch.testing.assert_close(found[b], torch.stack([paper.similarity[similarity](p, q) for p, q in pairs]))


def test_a_certain_prediction_and_a_zero_feature_stay_finite():
    certain = torch.eye(3)[None, :, :, None]
    query, key, _ = embed(certain, "kl")
    assert query.isfinite().all()
    assert key.isfinite().all()
    assert torch.count_nonzero(embed(torch.zeros(1, 3, 2, 2), "cosine").query) == 0


def test_positions_are_in_row_major_order(draw):
    x = draw(2, 5, 3, 4, similarity="kl")
    assert torch.equal(embed(x, "kl").query[1, 1 * 4 + 2], x[1, :, 1, 2])


def test_lower_precision_is_embedded_in_float32(draw):
    x = draw(1, 5, 2, 2, dtype=torch.bfloat16)
    assert torch.equal(embed(x.abs(), "kl").key, embed(x.float().abs(), "kl").key)
    found = aligned_similarity(embed(x, "cosine"), embed(x.flip(2), "cosine"))
    assert torch.equal(found, aligned_similarity(embed(x.float(), "cosine"), embed(x.float().flip(2), "cosine")))


def test_an_unknown_similarity_and_a_wrong_shape():
    with pytest.raises(UserError, match=r"'cosin' is unknown; known: cosine, kl. Did you mean 'cosine'\?"):
        embed(torch.zeros(1, 2, 3, 3), "cosin")
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\) to embed, got \(2, 3, 3\)"):
        embed(torch.zeros(2, 3, 3), "cosine")
