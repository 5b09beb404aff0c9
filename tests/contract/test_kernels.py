"""Kernels of a CUDA device compute with families whose loss has the form of another family."""

import pytest
import torch
from contract_problems import random_problem

from pyro_expfam.deq import FisherScoring, backend
from pyro_expfam.deq.layer import solve
from pyro_expfam.deq.reduction import ReducedKernels, canonical_problem
from pyro_expfam.families import Gamma, NegativeBinomial

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PARAMETER = torch.tensor([0.7, 2.0, 9.0], dtype=torch.float64)
HAVE_FORMS = [
    NegativeBinomial(0.4),
    NegativeBinomial(30.0),
    NegativeBinomial(PARAMETER),
    Gamma(0.7),
    Gamma(PARAMETER),
]


@pytest.mark.parametrize(
    ("family", "given"),
    # What reduces the last two has parameters by column; kernels of a device are tested elsewhere.
    [
        pytest.param(family, given, marks=() if (k, g) in ((2, 1), (4, 2)) else pytest.mark.slow)
        for k, family in enumerate(HAVE_FORMS)
        for g, given in enumerate(["", "offset", "offset mask weights"])
    ],
    ids=str,
)
def test_roots_and_gradients_by_interpreted_kernels(family, given, monkeypatch):
    problem = random_problem(family, 3, tuple(given.split()), torch.float32, num_rows=37)
    problem = problem.with_fields({k: x.to(DEVICE) for k, x in problem.fields.items()})
    monkeypatch.setattr(backend.cpu, "has_kernels", lambda problem: False)
    results = []
    for by_kernels in (True, False):
        monkeypatch.setattr(
            backend.cuda,
            "has_kernels",
            lambda problem, on=by_kernels: on and backend.cuda.has_activation(problem.family),
        )
        assert isinstance(backend.kernels_of(problem), ReducedKernels) == by_kernels
        fields = {name: problem.fields[name].clone().requires_grad_() for name in ("W", "b")}
        value = solve(problem.with_fields(fields), FisherScoring()).value
        results.append([value, *torch.autograd.grad(value.sin().sum(), list(fields.values()))])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", HAVE_FORMS, ids=str)
def test_the_other_form_has_the_same_derivatives(family):
    problem = random_problem(family, 2)
    canonical, sign = canonical_problem(problem)
    z = torch.randn(7, 2, dtype=torch.float64)
    difference = problem.objective(z) - canonical.objective(sign * z)
    other = problem.objective(2 * z) - canonical.objective(2 * sign * z)
    torch.testing.assert_close(difference, other)
    torch.testing.assert_close(problem.score(z), sign * canonical.score(sign * z))
    torch.testing.assert_close(problem.information(z), canonical.information(sign * z))
