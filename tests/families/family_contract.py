"""What every family must do: hand one to :func:`check_family`, or run the checks one by one."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_expfam.families import Family
from pyro_expfam.families.entries import GeneralEntries

DERIVATIVES = ("loss", "score", "information", "third_derivative", "fourth_derivative")
DISTANCE = 1e-3


def linear_predictors(family: Family, reach: float, count: int = 13) -> Tensor:
    """Linear predictors of the domain of a family, ``(count, 3)``, and away from kinks at 0."""
    eta = torch.linspace(-reach, reach, 3 * count, dtype=torch.float64).reshape(count, 3) + 0.0123
    return torch.exp(eta * (1.5 / reach)) if on_half_line(family) else eta


def on_half_line(family: Family) -> bool:
    return family.predictor_domain is constraints.positive


def observations(family: Family, eta: Tensor) -> Tensor:
    """Observations of the family at other linear predictors than ``eta``: some are surprising."""
    return family.sample(
        (eta.flip(0) / 3).clamp(-4, 4) if not on_half_line(family) else eta.flip(0)
    )


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative by differences of fourth order, and a bound of its rounding error."""
    low, lower, upper, high = (function(x + k * DISTANCE) for k in (-2, -1, 1, 2))
    size = torch.maximum(low.abs(), high.abs())
    return (low - 8 * lower + 8 * upper - high) / (12 * DISTANCE), 1e-11 * size


def check_each_derivative_is_the_slope_of_the_one_before(family: Family) -> None:
    eta = linear_predictors(family, 30.0)
    y = observations(family, eta)
    pairs = [
        ("loss", "score", -1),
        ("score", "curvature", -1),
        ("curvature", "third_derivative", 1),
        ("third_derivative", "fourth_derivative", 1),
    ]
    for lower, upper, sign in pairs:
        expected, lost = slope(lambda x, name=lower: getattr(family, name)(x, y), eta)
        claimed = sign * getattr(family, upper)(eta, y)
        off = (claimed - expected).abs() - (1e-6 * expected.abs() + lost + 1e-11)
        assert bool((off <= 0).all()), (lower, upper, float(off.max()))


def check_derivatives_pass_gradcheck(family: Family) -> None:
    eta = linear_predictors(family, 3.0, 2)
    y = observations(family, eta)
    leaf = eta.clone().requires_grad_()
    for name in DERIVATIVES:
        assert torch.autograd.gradcheck(
            lambda x, name=name: getattr(family, name)(x, y), leaf, fast_mode=True
        )
    assert torch.autograd.gradcheck(lambda x: family.log_prob(y, x), leaf, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: family.log_prob(y, x), leaf, fast_mode=True)
    finite = torch.where(family.expected_y(eta).isfinite(), eta, -1.0).requires_grad_()
    assert torch.autograd.gradcheck(family.expected_y, finite, fast_mode=True)


def check_gradients_flow_to_parameters(family: Family) -> None:
    eta = linear_predictors(family, 3.0, 2)
    y = observations(family, eta)
    for name, value in family.parameters.items():
        if not value.is_floating_point():
            continue
        leaf = value.double().clone().requires_grad_()

        def of(value: Tensor, name: str = name) -> Family:
            return family.with_parameters({name: value})

        for function in DERIVATIVES:
            assert torch.autograd.gradcheck(
                lambda x, f=function, of=of: getattr(of(x), f)(eta, y), leaf, fast_mode=True
            )
        assert torch.autograd.gradcheck(
            lambda x, of=of: of(x).log_prob(y, eta), leaf, fast_mode=True
        )
        assert torch.autograd.gradcheck(
            lambda x, of=of: of(x).log_base_measure(y), leaf, fast_mode=True
        )


def check_log_prob_is_the_base_measure_without_the_loss(family: Family) -> None:
    eta = linear_predictors(family, 8.0)
    y = observations(family, eta)
    measure, loss = family.log_base_measure(y), family.loss(eta, y)
    error = (family.log_prob(y, eta) - (measure - loss)).abs()
    assert bool((error <= 1e-12 * (1 + measure.abs() + loss.abs())).all())


def check_information_and_convexity(family: Family) -> None:
    eta = linear_predictors(family, 30.0, 41)
    y = observations(family, eta)
    information = family.information(eta, y)
    assert information.shape == eta.shape
    assert bool((information >= 0).all())
    if family.is_convex:
        torch.testing.assert_close(family.curvature(eta, y), information, rtol=1e-12, atol=1e-14)
    if family.self_concordance is not None:
        bound = family.self_concordance * information * (1 + 1e-9)
        assert bool((family.third_derivative(eta, y).abs() <= bound + 1e-14).all())


def check_entries_are_the_functions_of_the_family(family: Family) -> None:
    eta = linear_predictors(family, 5.0)
    y = observations(family, eta)
    entries = GeneralEntries(family, y)
    loss, mean, information = entries.first_cumulants_in_place(eta.clone(), torch.empty_like(eta))
    both = entries.mean_and_variance_in_place(eta.clone(), torch.empty_like(eta))
    expected = family.loss(eta, y), -family.score(eta, y), family.information(eta, y)
    torch.testing.assert_close((loss, mean, information), expected)
    torch.testing.assert_close(both, expected[1:])


def check_the_canonical_form_has_the_same_derivatives(family: Family) -> None:
    eta = linear_predictors(family, 8.0)
    y = observations(family, eta)
    form = family.canonical_form(y)
    if form is None:
        return
    own = form.sign * eta + form.offset
    for order, name in enumerate(("score", "curvature", "third_derivative"), 1):
        expected = getattr(family, name)(eta, y)
        found = form.sign**order * form.weights * getattr(form.family, name)(own, form.y)
        size = form.weights * (1 + form.y.abs()) + expected.abs()
        assert bool(((found - expected).abs() <= 1e-12 * size).all()), name


def check_draws_have_the_moments(family: Family) -> None:
    eta = linear_predictors(family, 2.0, 3)
    y = family.sample(eta, (20_000,))
    assert y.shape == (20_000, *eta.shape)
    assert bool(family.support.check(y).all())
    deviation = y - family.expected_y(eta)
    assert not bool((errors_of(deviation, torch.zeros_like(eta)) > 5).any())
    squares = deviation.square()
    assert not bool((errors_of(squares, family.variance_of_y(eta)) > 6).any())
    # The score has mean zero, and its variance is the Fisher information.
    score = family.score(eta.expand_as(y), y)
    assert not bool((errors_of(score, torch.zeros_like(eta)) > 5).any())
    difference = score.square() - family.information(eta.expand_as(y), y)
    assert not bool((errors_of(difference, torch.zeros_like(eta)) > 6).any())


def errors_of(draws: Tensor, expected: Tensor) -> Tensor:
    """How many standard errors the means of draws are from what is expected."""
    spread = draws.std(0) / math.sqrt(len(draws))
    return (draws.mean(0) - expected).abs() / (spread + 1e-9 * (1 + expected.abs()))


def check_the_predictor_inverts_the_mean(family: Family) -> None:
    eta = linear_predictors(family, 3.0)
    mean = family.expected_y(eta)
    torch.testing.assert_close(
        family.expected_y(family.predictor(mean)), mean, rtol=1e-9, atol=1e-12
    )


def check_dtype_and_shape(family: Family) -> None:
    for dtype in (torch.float32, torch.float64):
        eta = linear_predictors(family, 12.0).to(dtype)
        y = observations(family, eta)
        values = [getattr(family, name)(eta, y) for name in DERIVATIVES]
        values += [family.log_prob(y, eta), family.log_base_measure(y), y]
        values += [family.curvature(eta, y)]
        moments = [family.expected_y(eta), family.variance_of_y(eta)]
        for value in (*values, *moments):
            assert value.dtype == dtype
            assert value.shape == eta.shape
        assert all(bool(value.isfinite().all()) for value in values)
        # The moments of a heavy tail may be infinite.
        assert not any(bool(value.isnan().any()) for value in moments)


def check_single_precision_agrees_with_double(family: Family) -> None:
    eta = linear_predictors(family, 12.0).float()
    y = observations(family, eta)
    for name in ("score", "information"):
        single = getattr(family, name)(eta, y).double()
        double = getattr(family, name)(eta.double(), y.double())
        size = 1 + y.double().abs() + double.abs()
        assert bool(((single - double).abs() <= 1e-5 * size).all()), name


def check_rows(family: Family) -> None:
    eta = linear_predictors(family, 3.0, 6)
    y = observations(family, eta)
    by_row = family.with_parameters(
        {name: value.expand(6, 3).clone() for name, value in family.parameters.items()}
    )
    assert by_row.differs_by_row == bool(family.parameters)
    index = torch.tensor([4, 1])
    for some in (slice(1, 4), index):
        torch.testing.assert_close(
            by_row.rows(some).loss(eta[some], y[some]), family.loss(eta, y)[some]
        )


def check_copies(family: Family) -> None:
    eta = linear_predictors(family, 3.0)
    y = observations(family, eta)
    for copied in (
        pickle.loads(pickle.dumps(family)),
        copy.copy(family),
        copy.deepcopy(family),
    ):
        assert type(copied) is type(family)
        assert copied.is_convex == family.is_convex
        assert copied.self_concordance == family.self_concordance
        torch.testing.assert_close(copied.information(eta, y), family.information(eta, y))
        if not family.parameters:
            assert copied == family
            assert hash(copied) == hash(family)
    assert copy.copy(family) == family
    assert family != object()


def check_support(family: Family) -> None:
    values = torch.full((2, 3), math.nan)
    assert not bool(family.support.check(values).any())


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


def check_family(family: Family) -> None:
    """Checks all of the contract."""
    for check in CHECKS:
        check(family)
