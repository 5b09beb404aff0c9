"""Laplace covariances of rows beside Pyro's Laplace approximation of all latents at once."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoLaplaceApproximation
from simulations import HARDEST, simulate
from torch import Tensor

from pyro_expfam.deq import FisherScoring, LatentProblem
from pyro_expfam.deq.layer import solve

NUM_ROWS = 50


def largest_difference(num_rows: int = NUM_ROWS) -> float:
    """The largest difference of an entry of the covariances of bits whose loading is known."""
    problem, _ = simulate(HARDEST, num_rows)
    z = solve(problem, FisherScoring()).value
    ours = torch.linalg.inv(problem.information(z))
    return float((pyro_covariances(problem, z) - ours).abs().max())


def pyro_covariances(problem: LatentProblem, z: Tensor) -> Tensor:
    """The blocks of rows, ``(N, l, l)``, of what Pyro's guide finds at the latents ``z``."""

    def model(y: Tensor) -> None:
        prior = dist.Normal(torch.zeros_like(problem.W[0]), 1.0).to_event(1)
        with pyro.plate("rows", len(y)):
            logits = pyro.sample("z", prior) @ problem.W.T + problem.b
            pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)

    pyro.clear_param_store()
    guide = AutoLaplaceApproximation(model)
    guide(problem.y)
    guide.double()
    with torch.no_grad():
        guide.loc.copy_(z.flatten())
    posterior = guide.laplace_approximation(problem.y).get_posterior()
    whole = posterior.covariance_matrix.detach().view(*z.shape, *z.shape)
    return whole.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
