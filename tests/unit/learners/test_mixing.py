"""Mixed rows: closed forms, expectations, and what stays whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from learners.mixing import Kind, Mixed, mix


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def marked(rows: int, features: int) -> Tensor:
    """Return x_BF whose every entry is the number of its row: what comes from where can be read off."""
    return torch.arange(rows, dtype=torch.float32)[:, None].expand(-1, features).contiguous()


def table(
    rows: int = 400, kind: Kind = "cutmix", alpha: float = 1.0, features: int = 50
) -> tuple[Tensor, Tensor, Mixed]:
    numeric_BF, codes_BC = marked(rows, features), marked(rows, features).long()
    return numeric_BF, codes_BC, mix((numeric_BF, codes_BC), torch.arange(rows), kind, alpha, drawn())


def test_mixup_blends_numbers_and_the_share_is_the_own_classes() -> None:
    numeric_BF, _, mixed = table(kind="mixup")
    share_B1, partner_B1 = mixed.share_B[:, None], mixed.target_b[:, None].float()
    assert torch.allclose(mixed.inputs[0], share_B1 * numeric_BF + (1 - share_B1) * partner_B1, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_is_beta_distributed_and_partners_are_a_permutation(alpha: float) -> None:
    _, _, mixed = table(2000, "mixup", alpha, features=1)
    assert stats.kstest(mixed.share_B.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert mixed.target_b.sort().values.tolist() == list(range(2000))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_codes_are_the_own_or_the_partners_and_as_many_as_the_share_says(kind: Kind) -> None:
    _, codes_BC, mixed = table(kind=kind)
    own = mixed.inputs[1] == codes_BC
    assert (own | (mixed.inputs[1] == mixed.target_b[:, None])).all()
    other = mixed.target_b != torch.arange(400)
    kept_B = own.float().mean(dim=1)[other]
    error_B = (kept_B - mixed.share_B[other]) / (
        mixed.share_B[other] * (1 - mixed.share_B[other]) / 50
    ).sqrt().clamp(min=0.01)
    assert abs(error_B.mean()) < 5 / len(error_B) ** 0.5


def test_cutmix_of_a_table_takes_whole_features_and_its_share_is_what_remains() -> None:
    numeric_BF, codes_BC, mixed = table()
    other = mixed.target_b != torch.arange(400)
    kept = torch.cat([mixed.inputs[0] == numeric_BF, mixed.inputs[1] == codes_BC], dim=1)
    assert ((mixed.inputs[0] == numeric_BF) | (mixed.inputs[0] == mixed.target_b[:, None])).all()
    assert torch.allclose(kept.float().mean(dim=1)[other], mixed.share_B[other])


@pytest.mark.parametrize("flat", [True, False])
def test_cutmix_of_images_takes_one_box_through_all_channels(flat: bool) -> None:
    image = (3, 12, 20)
    x_BF = marked(300, 3 * 12 * 20)
    x = x_BF if flat else x_BF.reshape(300, *image)
    mixed = mix((x,), torch.arange(300), "cutmix", 1.0, drawn(), image)
    assert mixed.inputs[0].shape == x.shape
    taken_BCHW = (mixed.inputs[0] != x).reshape(300, *image)
    assert (taken_BCHW == taken_BCHW[:, :1]).all()
    for row, partner, share, taken_HW in zip(
        range(300), mixed.target_b, mixed.share_B, taken_BCHW[:, 0], strict=True
    ):
        if partner == row:
            continue
        assert share.item() == pytest.approx(1 - taken_HW.float().mean().item(), abs=1e-6)
        height, width = taken_HW.any(dim=1).sum(), taken_HW.any(dim=0).sum()
        assert taken_HW.sum() == height * width  # a filled rectangle


def test_boxes_cover_what_lambda_leaves_except_for_the_border() -> None:
    image = (1, 64, 64)
    mixed = mix((marked(4000, 64 * 64),), torch.arange(4000), "cutmix", 1.0, drawn(), image)
    # A box of side s around a uniform centre covers s - s²/4 of each side; s² is uniform, so s³ has mean 2/5, s⁴ 1/3.
    assert 1 - mixed.share_B.mean().item() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.015)


def test_a_missing_number_is_taken_or_left_and_never_invented() -> None:
    x_BF = torch.where(
        torch.rand(200, 30, generator=torch.Generator().manual_seed(0)) < 0.3, torch.nan, marked(200, 30)
    )
    mixed = mix((x_BF,), torch.arange(200), "mixup", 1.0, drawn())
    own_nan, other_nan = x_BF.isnan(), x_BF[mixed.target_b].isnan()
    out_BF = mixed.inputs[0]
    assert out_BF[own_nan & other_nan].isnan().all()
    assert not out_BF[~own_nan & ~other_nan].isnan().any()
    assert 0.4 < out_BF[own_nan ^ other_nan].isnan().float().mean() < 0.6
    kept = ~own_nan & other_nan & ~out_BF.isnan()
    assert (out_BF[kept] == x_BF[kept]).all()


def test_classification_loss_is_the_cross_entropy_of_the_soft_target() -> None:
    _, _, mixed = table(32, "mixup")
    target_B = torch.arange(32)
    logits_BK = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    soft_BK = mixed.share_B[:, None] * functional.one_hot(target_B, 32) + (1 - mixed.share_B)[
        :, None
    ] * functional.one_hot(mixed.target_b, 32)
    own_B, other_B = (
        functional.cross_entropy(logits_BK, t, reduction="none") for t in (target_B, mixed.target_b)
    )
    loss = (mixed.share_B * own_B + (1 - mixed.share_B) * other_B).mean()
    assert loss.item() == pytest.approx(functional.cross_entropy(logits_BK, soft_BK).item(), rel=1e-5)


def test_regression_mixes_the_target_as_it_mixes_numbers() -> None:
    target_B = torch.linspace(-3, 3, 64)
    mixed = mix((target_B[:, None].clone(),), target_B, "mixup", 1.0, drawn())
    assert torch.allclose(mixed.inputs[0][:, 0], mixed.target_b, atol=1e-6)
    assert not mixed.share_B.any()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_small_alpha_hardly_mixes_and_the_batch_itself_stays(kind: Kind) -> None:
    numeric_BF, codes_BC = marked(64, 4), marked(64, 4).long()
    before = numeric_BF.clone()
    mixed = mix((numeric_BF, codes_BC), torch.arange(64), kind, 1e-6, drawn())
    assert torch.equal(numeric_BF, before)
    whole = mixed.inputs[0][:, 0]
    assert ((whole == before[:, 0]) | (whole == mixed.target_b)).all()


def test_mixing_depends_on_the_generator_alone() -> None:
    for kind in ("mixup", "cutmix"):
        first, second, other = (
            mix((marked(32, 8),), torch.arange(32), kind, 1.0, drawn(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first.inputs[0], second.inputs[0])
        assert torch.equal(first.share_B, second.share_B)
        assert not torch.equal(first.inputs[0], other.inputs[0])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_on_cuda_draws_what_it_draws_on_the_cpu(kind: Kind) -> None:
    inputs, target_B = (marked(32, 12), marked(32, 3).long()), torch.arange(32)
    for image in (None, (3, 2, 2)):
        given = inputs[:1] if image else inputs
        here = mix(given, target_B, kind, 1.0, drawn(), image)
        there = mix(tuple(t.cuda() for t in given), target_B.cuda(), kind, 1.0, drawn(), image)
        assert all(tensor.is_cuda for tensor in (*there.inputs, there.target_b, there.share_B))
        for a, b in zip(here.inputs, there.inputs, strict=True):
            torch.testing.assert_close(a, b.cpu())
