"""Discriminations, difficulties and information of items."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

import pyro_expfam as pef

F = pef.families

LSAT = {
    "00000": 3, "00001": 6, "00010": 2, "00011": 11, "00100": 1, "00101": 1, "00110": 3,
    "00111": 4, "01000": 1, "01001": 8, "01011": 16, "01101": 3, "01110": 2, "01111": 15,
    "10000": 10, "10001": 29, "10010": 14, "10011": 81, "10100": 3, "10101": 28, "10110": 15,
    "10111": 80, "11000": 16, "11001": 56, "11010": 21, "11011": 173, "11100": 11, "11101": 61,
    "11110": 28, "11111": 298,
}  # fmt: skip
"""Section 6 of the Law School Admission Test (Bock and Lieberman, 1970)."""


def guide_at(family, W, b, latent_precision=1.0, **settings):
    """A guide of a block with these coefficients, which has seen a table."""
    W, b = torch.tensor(W).double(), torch.tensor(b).double()
    model = pef.ExpFamPCA(
        family,
        *W.shape,
        loading_scale=None,
        intercept_scale=None,
        latent_precision=latent_precision,
    ).double()
    with torch.no_grad():
        model.loading.copy_(W)
        model.intercept.copy_(b)
    guide = pef.LaplaceGuide(model, **settings)
    guide(torch.zeros(3, W.shape[0]).double())
    return guide


def test_the_admission_test_has_its_published_estimates():
    rows = [[float(c) for c in pattern] for pattern, count in LSAT.items() for _ in range(count)]
    frame = pd.DataFrame(rows, columns=[f"Item {k}" for k in range(1, 6)])
    model = pef.ExpFamPCA(F.Bernoulli(), 5, 1, loading_scale=None, intercept_scale=None).double()
    guide = pef.LaplaceGuide(model)
    guide.fit(frame, loss=pef.LaplaceEvidence(nodes=15), tol=1e-10)
    table = pef.item_response(guide).table
    # Source: coef() of the two-parameter model of the package ltm for R (Rizopoulos, 2006).
    difficulty = [-3.3597, -1.3696, -0.2799, -1.8659, -3.1236]
    discrimination = [0.8254, 0.7229, 0.8905, 0.6886, 0.6575]
    assert table.difficulty.tolist() == pytest.approx(difficulty, rel=4e-3)
    assert table.discrimination.tolist() == pytest.approx(discrimination, rel=4e-3)
    assert table.index.tolist() == list(frame.columns)


def test_one_latent_has_the_two_parameter_model():
    items = pef.item_response(guide_at(F.Bernoulli(), [[1.0], [2.0], [-0.5]], [0.5, -1.0, 0.2]))
    assert items.discrimination.tolist() == pytest.approx([1.0, 2.0, -0.5])
    assert items.difficulty[:, 0].tolist() == pytest.approx([-0.5, 0.5, 0.4])
    z = torch.linspace(-3, 3, 7).double()
    p = torch.sigmoid(z[:, None] * items.discrimination + torch.tensor([0.5, -1.0, 0.2]))
    wanted = items.discrimination.square() * p * (1 - p)
    torch.testing.assert_close(items.information(z), wanted)
    # The maximum is at the difficulty.
    at = items.information(items.difficulty[1]).squeeze()[1]
    assert at == pytest.approx(2.0**2 / 4)


def test_the_sign_makes_discriminations_positive_and_latents_have_unit_scale():
    items = pef.item_response(guide_at(F.Bernoulli(), [[-2.0], [-1.0]], [1.0, 0.0], 4.0))
    assert items.discrimination.tolist() == pytest.approx([1.0, 0.5])
    assert items.difficulty[:, 0].tolist() == pytest.approx([-1.0, 0.0])


def test_ordered_answers_have_a_difficulty_per_cut_point():
    cuts = [-1.0, 0.5, 2.0]
    items = pef.item_response(guide_at(F.Ordinal(4, cuts), [[2.0], [1.0]], [0.5, 0.0]))
    wanted = [[-0.75, 0.0, 0.75], cuts]
    torch.testing.assert_close(items.difficulty, torch.tensor(wanted).double())
    assert list(items.table) == [
        "discrimination",
        "difficulty_1",
        "difficulty_2",
        "difficulty_3",
    ]
    # Samejima (1969): the squared slopes of the probabilities over the probabilities.
    z = torch.linspace(-2, 2, 5, requires_grad=True, dtype=torch.float64)
    at_least = torch.sigmoid(2.0 * z[:, None] + 0.5 - torch.tensor(cuts))
    edges = [torch.ones(5, 1).double(), at_least, torch.zeros(5, 1).double()]
    p = -torch.cat(edges, 1).diff(dim=1)
    slopes = torch.stack(
        [torch.autograd.grad(p[:, k].sum(), z, retain_graph=True)[0] for k in range(4)], 1
    )
    wanted = (slopes.square() / p).sum(1)
    torch.testing.assert_close(items.information(z.detach())[:, 0], wanted.detach())


def test_counts_out_of_a_total_have_as_many_times_the_information():
    bits = pef.item_response(guide_at(F.Bernoulli(), [[1.5], [1.0]], [0.3, 0.0]))
    total = torch.tensor([6.0, 2.0])
    counts = pef.item_response(guide_at(F.Binomial(total), [[1.5], [1.0]], [0.3, 0.0]))
    torch.testing.assert_close(counts.difficulty, bits.difficulty)
    wanted = bits.information([-1.0, 1.0]) * total
    torch.testing.assert_close(counts.information([-1.0, 1.0]), wanted)


def test_probit_items_have_the_fisher_information():
    link = pef.links.Probit()
    items = pef.item_response(guide_at(F.Bernoulli(link=link), [[1.2]], [0.4]))
    z = torch.tensor([-1.0, 0.5]).double()
    eta = 1.2 * z + 0.4
    p = torch.special.ndtr(eta)
    density = torch.exp(-0.5 * eta.square()) / math.sqrt(2 * math.pi)
    wanted = 1.2**2 * density.square() / (p * (1 - p))
    torch.testing.assert_close(items.information(z)[:, 0], wanted)
    assert items.difficulty[0, 0] == pytest.approx(-0.4 / 1.2)


def test_several_latents_have_the_parameters_of_reckase():
    items = pef.item_response(guide_at(F.Bernoulli(), [[3.0, 4.0], [0.0, -2.0]], [1.0, 2.0]))
    assert items.discrimination.tolist() == pytest.approx([5.0, 2.0])
    assert items.difficulty[:, 0].tolist() == pytest.approx([-0.2, -1.0])
    torch.testing.assert_close(items.direction, torch.tensor([[0.6, 0.8], [0.0, -1.0]]).double())
    assert list(items.table)[-2:] == ["direction_0", "direction_1"]
    along = items.information([[0.0, 0.0]], direction=[3.0, 4.0])
    p = torch.sigmoid(torch.tensor([1.0, 2.0]).double())
    torch.testing.assert_close(along[0], torch.tensor([25.0, 1.6**2]).double() * p * (1 - p))
    with pytest.raises(ValueError, match="direction must be given for 2 latents"):
        items.information([[0.0, 0.0]])


def test_kinds_of_items_stand_side_by_side():
    family = F.Columns([([0], F.Bernoulli()), ([1, 2], F.Ordinal(3, [0.0, 1.0]))])
    items = pef.item_response(guide_at(family, [[1.0], [2.0], [1.0]], [1.0, 0.0, 0.0]))
    assert items.difficulty[0].isnan().tolist() == [False, True]
    assert items.difficulty[1].tolist() == pytest.approx([0.0, 0.5])
    assert items.information([0.0]).shape == (1, 3)


def test_intervals_come_from_the_posterior_of_the_coefficients():
    torch.manual_seed(1)
    W, b = torch.tensor([0.8, 1.0, 1.2, 1.5, 0.9, 1.1, 1.3, 0.7]), torch.linspace(-1, 1, 8)
    y = torch.bernoulli((torch.randn(500, 1) * W + b).sigmoid())
    guide = pef.LaplaceGuide(pef.ExpFamPCA(F.Bernoulli(), 8, 1), globals="laplace")
    guide.fit(y)
    items = pef.item_response(guide)
    low, high = items.discrimination_interval
    assert ((low < items.discrimination) & (items.discrimination < high)).all()
    deviation = guide.coefficients.variance()[:, 0].double().sqrt()
    torch.testing.assert_close(high - low, 2 * 1.645 * deviation, rtol=0.1, atol=0)
    narrow = pef.item_response(guide, level=0.5)
    assert (narrow.discrimination_interval.diff(dim=0) < high - low).all()
    # Source: the delta method.
    covariance = guide.coefficients.covariance().double().view(8, 2, 8, 2)
    for k in range(8):
        w, c = items.discrimination[k], guide.coefficients.mean[k, 1].double()
        slope = torch.stack([c / w**2, -1 / w])
        sign = guide.coefficients.mean[k, 0].sign().double()
        own = covariance[k, :, k] * torch.tensor([[1.0, sign], [sign, 1.0]])
        wanted = (slope @ own @ slope).sqrt()
        width = items.difficulty_interval[1, k, 0] - items.difficulty_interval[0, k, 0]
        assert width == pytest.approx(float(2 * 1.645 * wanted), rel=0.2)
    assert "discrimination_low" in items.table
    assert "difficulty_high" in repr(items)


def test_the_picture_has_a_curve_per_item_and_their_sum():
    items = pef.item_response(
        guide_at(F.Bernoulli(), [[1.0], [2.0]], [0.5, -1.0]), names=["easy", "hard"]
    )
    ax = items.plot()
    assert [line.get_label() for line in ax.lines] == ["easy", "hard"]
    z, curve = ax.lines[1].get_data()
    assert z[curve.argmax()] == pytest.approx(0.5, abs=0.05)
    (total,) = [other for other in ax.figure.axes if other is not ax]
    assert total.collections[0].get_paths()[0].vertices[:, 1].max() > curve.max()
    plt.close(ax.figure)


def test_what_has_no_items_is_refused():
    with pytest.raises(ValueError, match=r"finitely many ordered answers.* got Poisson"):
        pef.item_response(guide_at(F.Poisson(), [[1.0]], [0.0]))
    guide = guide_at(F.Bernoulli(), [[1.0], [1.0]], [0.0, 0.0])
    with pytest.raises(ValueError, match="names must be 2 names, got 1"):
        pef.item_response(guide, names=["a"])
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 90"):
        pef.item_response(guide, level=90)
    with pytest.raises(ValueError, match=r"latents must be of shape \(K,\), got \(2, 2\)"):
        pef.item_response(guide).information(torch.zeros(2, 2))
