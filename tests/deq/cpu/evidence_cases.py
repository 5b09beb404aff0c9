"""Random problems for the tests of the kernels of the evidence."""

import torch

import pyro_expfam as pef
from pyro_expfam.deq import LatentProblem

NUM_ROWS, NUM_FEATURES = 150, 21

F = pef.families
OF_LEVELS = [F.Categorical(2), F.Categorical(3), F.Categorical(17), F.Multinomial()]
MIXED = {
    "without categories": F.Columns(
        [
            (slice(0, 8), F.Bernoulli()),
            ([8, 10, 12], F.Poisson()),
            ([9, 11], F.Gaussian(0.3)),
            (slice(13, 21), F.NegativeBinomial(torch.linspace(0.3, 1e3, 8).double())),
        ]
    ),
    "with categories": F.Columns(
        [
            (slice(0, 4), F.Categorical(3)),
            ([4, 6], F.Ordinal(4, cut_points=[-1.0, 0.0, 1.5])),
            ([5, 7], F.Gamma(2.0)),
            (slice(8, 11), F.Categorical(5)),
            (slice(11, 14), F.Multinomial()),
            (slice(14, 21), F.Bernoulli(link=pef.links.Probit())),
        ]
    ),
}


def drawn(family, eta):
    """A table drawn from a law, whose compositions are counts of any total."""
    if isinstance(family, F.Multinomial):
        return torch.poisson(eta.clamp(max=4).exp())
    return family.sample(eta)


def random_coupled(family, latent_dim, given=()):
    """A problem of categories, compositions or several laws, whose columns have weights."""
    num_predictors = family.num_predictors(NUM_FEATURES)
    W, b = torch.randn(num_predictors, latent_dim).double(), torch.randn(num_predictors).double()
    eta = torch.randn(NUM_ROWS, latent_dim).double() @ W.T + b
    y, fields = torch.zeros_like(eta), {}
    weights = (torch.rand(NUM_ROWS, NUM_FEATURES) < 0.7) * (0.5 + torch.rand(NUM_ROWS, 1).double())
    for kind in family.kinds(NUM_FEATURES):
        y[:, kind.predictors] = drawn(kind.family, eta[:, kind.predictors].clamp(-12, 12))
        if isinstance(kind.family, F.Multinomial):
            # A composition is there as a whole.
            weights[:, kind.columns] = weights[:, kind.columns][:, :1]
    if "offset" in given:
        fields["offset"] = 0.3 * torch.randn(NUM_ROWS, num_predictors).double()
    if "weights" in given:
        fields["weights"] = weights[:, family.column_of_predictor(NUM_FEATURES)]
    return LatentProblem(family, y, W, b, torch.tensor(0.8).double(), **fields)
