"""What follows a fit of several processes: intervals, checks, comparisons and containers."""

import functools

import pytest
import torch
from process_tasks import splits
from scipy import sparse
from shared_table_tasks import (
    checked,
    checks_of_all,
    coefficients,
    coefficients_of_all,
    compared,
    compared_families,
    comparisons_of_all,
    container,
    containers_of_all,
    draws_of_all,
    family_comparisons_of_all,
    fitted_guide,
    numbers_of,
    refusals_of_all,
)

import pyro_expfam as pef
from pyro_expfam import families

NUM_ROWS, NUM_FEATURES = 40, 4


def guide_of(family, num_covariates, settings, rows):
    own = family.rows(rows) if family.differs_by_row else family
    block = pef.ExpFamPCA(own, NUM_FEATURES, 1, num_covariates=num_covariates)
    return pef.LaplaceGuide(block.double(), **settings)


def case(family, arguments=None, num_covariates=0, drawn_from=None, **settings):
    law = drawn_from or family
    num_predictors = law.num_predictors(NUM_FEATURES)
    eta = torch.randn(NUM_ROWS, 1).double() @ torch.randn(1, num_predictors).double()
    make = functools.partial(guide_of, family, num_covariates, settings)
    return make, law.decode(law.sample(eta)), arguments or {}


def same(found, expected, rtol=1e-10):
    """Whether all numbers agree, relative to the largest of their kind."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        if isinstance(x, torch.Tensor):
            atol = rtol * max(1.0, float(x.nan_to_num().abs().max()))
            torch.testing.assert_close(found[name], x, rtol=0.0, atol=atol, equal_nan=True)
        elif isinstance(x, float):
            assert found[name] == pytest.approx(x, rel=rtol)
        else:
            assert found[name] == x


def check_intervals(pool, cases):
    answers = pool.run(coefficients_of_all, cases, 4)
    for name, (make, y, arguments) in cases.items():
        alone = coefficients(fitted_guide(make, y, arguments))
        for found in answers:
            # A fit is at rest when a step promises little: coefficients are known to its root.
            same(found[name], alone, 1e-6)


def test_intervals_of_coefficients_are_those_of_one_process(pool):
    check_intervals(pool, {"counts": case(families.Poisson(), globals="laplace")})


@pytest.mark.slow
def test_intervals_under_other_models_are_those_of_one_process(pool):
    x = torch.randn(NUM_ROWS, 1).double()
    cases = {
        "covariates": case(families.Bernoulli(), {"covariates": x}, 1, globals="laplace"),
        "levels": case(families.Categorical(3), globals="laplace"),
    }
    check_intervals(pool, cases)


@pytest.mark.slow
def test_intervals_with_a_learnt_size_are_those_of_one_process(pool):
    size, drawn_from = families.NegativeBinomial("shared"), families.NegativeBinomial(2.0)
    make, y, _ = case(size, drawn_from=drawn_from, globals="laplace")
    alone = coefficients(fitted_guide(make, y, {}))
    for found in pool.run(coefficients_of_all, {"size": (make, y, {})}, 3)[:3]:
        # The covariance of the size comes from finite differences of gradients.
        same(found["size"], alone, 1e-6)


def test_checks_are_those_of_one_process(pool):
    mask = torch.rand(NUM_ROWS, NUM_FEATURES) < 0.9
    arguments = {"mask": mask, "offset": torch.ones(1, 1)}
    check_checks(pool, {"counts": case(families.Poisson(), arguments)})


@pytest.mark.slow
def test_checks_under_other_models_are_those_of_one_process(pool):
    totals = torch.randint(1, 9, (NUM_ROWS, 1))
    cases = {
        "covariates": case(families.Poisson(), {"covariates": torch.randn(NUM_ROWS, 1)}, 1),
        "by row": case(families.Binomial(totals)),
        "levels": case(families.Categorical(3)),
    }
    check_checks(pool, cases)


def check_checks(pool, cases):
    alone = {name: fitted_guide(*x) for name, x in cases.items()}
    states = {name: guide.state_dict() for name, guide in alone.items()}
    answers = pool.run(checks_of_all, cases, states, 2)[:2]
    for name, (_, y, arguments) in cases.items():
        block, _ = checked(alone[name], y, arguments)
        for found in answers:
            numbers, text = found[name]
            same(numbers, numbers_of(block))
            assert text == answers[0][name][1]
            assert f"table of {NUM_ROWS} rows" in text


@pytest.mark.parametrize("hold_out", ["entries", pytest.param("rows", marks=pytest.mark.slow)])
def test_comparisons_of_latents_are_those_of_one_process(hold_out, pool):
    y = torch.poisson(torch.exp(torch.randn(NUM_ROWS, 1) @ torch.randn(1, 3) / 2))
    mask, family = torch.rand(NUM_ROWS, 3) < 0.95, families.Poisson()
    answers = pool.run(comparisons_of_all, family, y, mask, [1], hold_out, 2)[:2]
    alone = compared(family, y, mask, [1], hold_out)
    for found in answers:
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)
        assert torch.equal(found, answers[0])


@pytest.mark.parametrize(
    ("hold_out", "count", "names"),
    [
        ("entries", 2, ["Poisson", "few"]),
        pytest.param("rows", 3, ["Poisson", "few", "geometric"], marks=pytest.mark.slow),
    ],
)
def test_comparisons_of_families_are_those_of_one_process(hold_out, count, names, pool):
    y = torch.poisson(torch.exp(torch.randn(NUM_ROWS, 1) @ torch.randn(1, 3) / 2)).double()
    offset = torch.randn(NUM_ROWS, 1).double() / 2
    y[30, 0] = 9.0  # Beyond what Binomial(5) can be, in the last process.
    laws = {
        "Poisson": families.Poisson(),
        "few": families.Binomial(5),
        "geometric": families.Geometric(),
    }
    laws = {name: laws[name] for name in names}
    answers = pool.run(family_comparisons_of_all, laws, y, offset, hold_out, count)[:count]
    alone, words, _ = compared_families(laws, y, offset, hold_out)
    for numbers, own_words, caveats in answers:
        torch.testing.assert_close(numbers, alone, rtol=1e-10, atol=1e-10, equal_nan=True)
        assert "y must be in the support" in own_words[0][1]
        assert own_words[1] == words[1]
        assert (own_words, caveats) == answers[0][1:]


def test_evidence_and_containers_by_row(pool):
    make, y, _ = case(families.Poisson())
    answers = pool.run(containers_of_all, make, y, 3)[:3]
    guide = fitted_guide(make, y, {})
    alone = container(guide, y, range(NUM_ROWS))
    for (total, found), rows in zip(answers, splits(NUM_ROWS, 3), strict=True):
        assert total == pytest.approx(guide.log_evidence(y).sum().item(), rel=1e-10)
        assert found["rows"] == alone["rows"][rows]
        assert torch.equal(found["y"], alone["y"][rows])
        torch.testing.assert_close(found["evidence"], alone["evidence"][rows])


@pytest.mark.parametrize("num_covariates", [0, 1])
def test_no_rows_have_no_latents_and_no_evidence(num_covariates):
    block = pef.ExpFamPCA(families.Poisson(), 4, 2, num_covariates=num_covariates)
    y, x = torch.poisson(torch.ones(30, 4)), torch.randn(30, num_covariates)
    guide = pef.LaplaceGuide(block)
    guide.fit(y, covariates=x if num_covariates else None)
    for none in (y[:0], y.numpy()[:0], sparse.csr_array(y)[:0]):
        assert guide.latents(none).shape == (0, 2)
        for order in (1, 2):
            assert guide.log_evidence(none, order=order).shape == (0,)
    latents = guide.latents(y[:0], covariates=x[:0] if num_covariates else None)
    assert latents.requires_grad
    words = r"y must have shape \(\.\.\., rows, 4\), .* got \(0"
    for bad in (torch.zeros(0, 5), torch.zeros(0), sparse.csr_array((0, 3))):
        for ask in (guide.latents, guide.log_evidence):
            with pytest.raises(ValueError, match=words):
                ask(bad)
    others = {"offset": torch.ones(0, 3), "mask": torch.ones(0, 3) > 0, "weights": torch.ones(0, 5)}
    for name, other in {**others, "covariates": torch.ones(0, 2)}.items():
        with pytest.raises(ValueError, match=f"{name} must"):
            guide.latents(y[:0], **{name: other})


def test_processes_draw_the_same_coefficients_and_latents_of_their_rows(pool):
    make, y, _ = case(families.Poisson(), globals="laplace")
    answers = pool.run(draws_of_all, make, y, 3)[:3]
    first, mean, deviation = answers[0]
    for (found, *_), rows in zip(answers, splits(NUM_ROWS, 3), strict=True):
        for name in ("posterior loading", "posterior intercept", "prior loading"):
            assert torch.equal(found[name], first[name])
            assert len(found[name].flatten(1).unique(dim=0)) == 60
        assert found["posterior z"].shape == (60, len(y[rows]), 1)
        assert found["posterior z"].std(0).min() > 0
    # Other seeds of the processes have made other latents: no row is drawn as another one.
    noise = torch.cat([x["prior z"] for x, *_ in answers], 1)
    assert torch.corrcoef(noise[..., 0].T).fill_diagonal_(0).abs().max() < 0.6
    # Sixty draws of a normal with this mean and deviation.
    drawn = torch.cat([first["posterior loading"], first["posterior intercept"][..., None]], 2)
    assert ((drawn.mean(0) - mean) / deviation * 60**0.5).abs().max() < 4
    assert (drawn.std(0) / deviation).log().abs().max() < 0.5


def test_what_processes_cannot_do_together_is_an_error_in_all(pool):
    make, y, _ = case(families.Poisson(), globals="laplace")
    answers = pool.run(refusals_of_all, make, y)
    for number, errors in enumerate(answers):
        wanted = [
            "y must have at least one row" if number == 2 else "process 2 of 4 has stopped with",
            "y must have at least one row" if number == 2 else "process 2 of 4 has stopped with",
            "n_jobs must be None where several processes hold the rows, got 2",
            "guide must have been trained for a posterior of several processes",
            "y must have at least one row" if number == 2 else "process 2 of 4 has stopped with",
        ]
        assert len(errors) == len(wanted)
        for text, error in zip(wanted, errors, strict=True):
            assert text in error
