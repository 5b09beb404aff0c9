"""Every linear map gives the same layer as the matrix that it stands for."""

import pytest
import torch
from quick_cases import in_turn
from torch.autograd import gradcheck

from pyro_expfam.deq import Dense, FisherScoring, LatentProblem, LinearMap, linear
from pyro_expfam.deq.layer import solve
from pyro_expfam.evidence import evidence_at_root, integrate_evidence
from pyro_expfam.families import Bernoulli, NegativeBinomial, Poisson
from pyro_expfam.links import Probit


class Tied(LinearMap):
    """A loading whose last column is its first times a factor per column of the table."""

    def __init__(self, half, factor):
        self.half, self.factor = half, factor

    @property
    def fields(self):
        return {"half": self.half, "factor": self.factor}

    def with_fields(self, fields):
        return Tied(**{**self.fields, **fields})

    @property
    def loading(self):
        return torch.cat([self.half, self.factor * self.half[..., :1]], -1)


def random_maps():
    half, factor = torch.randn(6, 1).double(), 0.5 + torch.rand(6, 1).double()
    up = linear.ConvTranspose1d(1, 1, 4, stride=2, latent_shape=(1, 2))
    down = linear.Conv1d(1, 3, 1, latent_shape=(1, 2))
    return {
        "dense": Dense(torch.randn(6, 2).double()),
        "tied": Tied(half, factor),
        "transposed convolution": up.map(torch.randn(1, 1, 4).double()),
        "convolution": down.map(torch.randn(3, 1, 1).double()),
    }


FAMILIES = [Bernoulli(), Poisson(), NegativeBinomial(2.0), Bernoulli(link=Probit())]
every_map = pytest.mark.parametrize("name", random_maps())
every_pair = pytest.mark.parametrize(("family", "name"), in_turn(FAMILIES, list(random_maps())))


def problem_of(family, linear_map):
    y = family.sample(torch.zeros(5, 6).double())
    return LatentProblem(family, y, linear_map, torch.zeros(6).double(), torch.tensor(0.7).double())


@every_pair
def test_root_and_evidence_are_those_of_the_matrix(family, name):
    problem = problem_of(family, random_maps()[name])
    same = LatentProblem(family, problem.y, problem.map.loading, problem.b, problem.precision)
    z, expected = (solve(x, FisherScoring()).value for x in (problem, same))
    torch.testing.assert_close(z, expected)
    for order in (1, 2):
        torch.testing.assert_close(
            evidence_at_root(problem, z, order), evidence_at_root(same, expected, order)
        )
    torch.testing.assert_close(integrate_evidence(problem, z), integrate_evidence(same, z))


@every_pair
def test_gradients_of_the_fields_of_a_map(family, name):
    problem = problem_of(family, random_maps()[name])
    fields = problem.map.fields

    def with_tensors(*tensors):
        return problem.with_fields(dict(zip(fields, tensors, strict=True)))

    def of_root(*tensors):
        return solve(with_tensors(*tensors), FisherScoring()).value

    def of_evidence(*tensors):
        at = with_tensors(*tensors)
        return evidence_at_root(at, solve(at, FisherScoring()).value, 2)

    values = tuple(x.clone().requires_grad_() for x in fields.values())
    assert gradcheck(of_root, values, fast_mode=True)
    assert gradcheck(of_evidence, values, fast_mode=True)


@every_map
def test_operations_of_a_map_are_those_of_its_matrix(name):
    linear_map = random_maps()[name]
    W, z, v = linear_map.loading, torch.randn(4, 2).double(), torch.rand(4, 6).double()
    root = torch.randn(4, 2, 2).double()
    C = root @ root.mT
    expected = {
        "transpose": v @ W,
        "gram": torch.einsum("si,ij,ik->sjk", v, W, W),
        "gram_diagonal": v @ W.square(),
        "cubes": torch.einsum("si,ij,ik,im->sjkm", v, W, W, W),
    }
    assert (linear_map.num_features, linear_map.latent_dim) == (6, 2)
    torch.testing.assert_close(linear_map(z), z @ W.T)
    for operation, value in expected.items():
        torch.testing.assert_close(getattr(linear_map, operation)(v), value)
    torch.testing.assert_close(linear_map.forms(C), torch.einsum("ij,sjk,ik->si", W, C, W))
    torch.testing.assert_close(linear_map.times(C), torch.einsum("ij,sjk->sik", W, C))
    torch.testing.assert_close(linear_map.largest_norm(), W.norm(dim=1).max())


@every_map
def test_loadings_of_a_batch(name):
    problem = problem_of(FAMILIES[0], random_maps()[name])
    fields = problem.map.fields
    several = problem.with_fields({k: torch.stack([x, 2 * x]) for k, x in fields.items()})
    together = solve(several, FisherScoring()).value
    for factor, found in zip((1, 2), together, strict=True):
        alone = problem.with_fields({k: factor * x for k, x in fields.items()})
        torch.testing.assert_close(found, solve(alone, FisherScoring()).value)


def test_a_map_without_a_matrix_says_that_one_is_needed():
    class Nothing(Tied):
        loading = LinearMap.loading

    with pytest.raises(TypeError, match="a map by a matrix is needed here, got Nothing"):
        _ = Nothing(torch.ones(2, 1), torch.ones(2, 1)).num_features
