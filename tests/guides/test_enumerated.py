"""Discrete latents of rows that are summed over."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from quick_cases import in_turn

import pyro_expfam as pef

NUM_ROWS = 20
SHARES = torch.tensor([0.3, 0.7], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class ClassOfLabel(PyroModule):
    """The mean of a label depends on the latents and on a class."""

    def __init__(self):
        super().__init__()
        self.counts = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)

    def forward(self, y, label):
        z = self.counts(y)
        with pyro.plate("cells", NUM_ROWS):
            kind = pyro.sample("kind", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
            pyro.sample("label", dist.Normal(z[..., 0] + 2.0 * kind, 1.0), obs=label)


class ClassOfLatents(PyroModule):
    """The prior mean of the latents depends on a class: a mixture."""

    def __init__(self):
        super().__init__()
        self.counts = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)
        self.means = PyroParam(torch.tensor([[-1.5, 0.0], [1.5, 0.5]]))

    def forward(self, y, label):
        with pyro.plate("cells", NUM_ROWS):
            kind = pyro.sample("kind", dist.Categorical(SHARES), infer={"enumerate": "parallel"})
        self.counts(y, latent_loc=self.means[kind])


MODELS = [ClassOfLabel, ClassOfLatents]
every_model = pytest.mark.parametrize("make", MODELS, ids=lambda kind: kind.__name__)


def data():
    torch.manual_seed(0)
    z = torch.randn(NUM_ROWS, 2)
    return torch.poisson(torch.exp(0.5 * z @ torch.randn(2, 6))), z[:, 0] + 1.0


def log_joint(model, args, values):
    """The log joint density with the class summed over."""
    conditioned = poutine.condition(model, values)
    trace = poutine.trace(poutine.enum(conditioned, first_available_dim=-3)).get_trace(*args)
    return TraceEinsumEvaluator(trace, True, 2).log_prob(trace)


def test_latents_are_a_stationary_point_with_the_class_summed_over():
    pyro.set_rng_seed(0)
    model, args = ClassOfLabel(), data()
    guide = pef.DEQMAPGuide(model)
    values = {name: x.detach() for name, x in guide(*args).items()}
    assert "kind" not in values
    z = values["counts.z"].requires_grad_()
    (found,) = torch.autograd.grad(log_joint(model, args, values), z)
    assert float(found.abs().max()) < 1e-8


def test_a_mixture_as_the_prior_of_latents():
    pyro.set_rng_seed(0)
    model, (y, label) = ClassOfLatents(), data()
    guide = pef.DEQMAPGuide(model)
    z = guide(y, label)["counts.z"].detach().requires_grad_()
    block = guide.block("counts")
    parts = dist.Normal(model.means[:, None].detach(), 1.0).to_event(1).log_prob(z)
    prior = torch.logsumexp(parts + SHARES.log()[:, None], 0)
    eta = z @ block.loading.mT + block.intercept
    joint = (prior + dist.Poisson(torch.exp(eta)).to_event(1).log_prob(y)).sum()
    (found,) = torch.autograd.grad(joint, z)
    assert float(found.abs().max()) < 1e-8


@pytest.mark.parametrize(
    ("make", "guide_of"),
    in_turn([ClassOfLabel, ClassOfLatents], [pef.DEQMAPGuide, pef.LaplaceGuide]),
)
def test_svi_with_enumeration_trains(make, guide_of):
    pyro.set_rng_seed(0)
    model, args = make(), data()
    guide = guide_of(model)
    svi = SVI(model, guide, Adam({"lr": 0.03}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(*args) for _ in range(15)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_the_covariance_is_the_inverse_of_the_hessian():
    pyro.set_rng_seed(0)
    model, args = ClassOfLabel(), data()
    guide = pef.LaplaceGuide(model)
    values = {name: x.detach() for name, x in guide(*args).items()}
    (root,) = guide.roots(*args)

    def minus(z):
        return -log_joint(model, args, values | {"counts.z": z})

    hessian = torch.autograd.functional.hessian(minus, root.latents)
    blocks = torch.stack([hessian[row, :, row] for row in range(NUM_ROWS)])
    assert torch.allclose(root.problem.information(root.solution.value), blocks)
