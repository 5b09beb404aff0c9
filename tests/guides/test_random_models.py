"""Random models of one to three blocks: mode, covariance and total derivatives."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroSample
from quick_cases import slow_unless

import pyro_expfam as pef

NUM_ROWS = 9
F = pef.families
LAWS = [
    F.Bernoulli(),
    F.Poisson(),
    F.Gaussian(0.8),
    F.NegativeBinomial(2.0),
    F.Gamma(1.5),
    F.Categorical(3),
    F.Bernoulli(link=pef.links.Probit()),
]
HEADS = ("none", "Bernoulli", "Normal", "Poisson", "network")
PRIORS = ("none", "means", "scale", "precision matrix", "heavy tails")


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def choice(options):
    return options[int(torch.randint(len(options), ()))]


class Random(PyroModule):
    """A model whose parts are drawn at random.

    The first block samples latents. Every other one shares them, or has latents of its own, which
    the head sees too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.size = int(torch.randint(1, 4, ()))
        self.head, self.prior = choice(HEADS), choice(PRIORS)
        settings = {}
        if self.prior == "scale":
            settings["latent_scale"] = 0.5 + torch.rand(self.size)
        if self.prior == "precision matrix":
            root = torch.randn(self.size, self.size)
            settings["latent_precision"] = torch.eye(self.size) + root @ root.mT
        count = int(torch.randint(1, 4, ()))
        self.shares = [bool(torch.rand(()) < 0.6) for _ in range(count)]
        self.blocks = PyroModule[torch.nn.ModuleList](
            [
                pef.ExpFamPCA(choice(LAWS), 5, self.size, **(settings if place == 0 else {}))
                for place in range(count)
            ]
        )
        if self.prior == "heavy tails":
            heavy = dist.StudentT(5.0, torch.zeros(self.size), 1.0).to_event(1)
            self.blocks[0].z = PyroSample(heavy)
        self.weight = torch.randn(self.size)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(self.size, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)
        )

    def forward(self, tables, label, loc):
        first = self.blocks[0](tables[0], latent_loc=loc if self.prior == "means" else None)
        total = first
        for block, y, shares in zip(
            list(self.blocks)[1:], tables[1:], self.shares[1:], strict=False
        ):
            total = total + (0.0 * first if shares else block(y))
            if shares:
                block(y, z=first)
        eta = total @ self.weight
        laws = {
            "Bernoulli": lambda: dist.Bernoulli(logits=eta),
            "Normal": lambda: dist.Normal(eta, 0.7),
            "Poisson": lambda: dist.Poisson(torch.exp(0.5 * eta)),
            "network": lambda: dist.Normal(self.net(total).squeeze(-1), 0.7),
        }
        if self.head != "none":
            with pyro.plate("cells", NUM_ROWS):
                pyro.sample("label", laws[self.head](), obs=label)


def made(seed):
    pyro.set_rng_seed(seed)
    model = Random()
    tables = []
    for block in model.blocks:
        levels = block.family.predictors_per_column
        drawn = block.family.sample(torch.randn(NUM_ROWS, 5 * levels))
        tables.append(block.family.decode(drawn))
    label = torch.poisson(torch.ones(NUM_ROWS)).clamp(max=1.0)
    return model, (tables, label, 0.5 * torch.randn(NUM_ROWS, model.size))


def log_joint(model, args, values):
    return poutine.trace(poutine.condition(model, values)).get_trace(*args).log_prob_sum()


@pytest.mark.parametrize("seed", slow_unless(lambda seed: seed < 3, range(24)))
def test_mode_covariance_and_gradient_of_a_random_model(seed):
    model, args = made(seed)
    guide = pef.LaplaceGuide(model)
    guide(*args)
    values = {name: x.detach() for name, x in guide.median(*args).items()}
    roots = guide.roots(*args)
    names = [root.sites.latents for root in roots]
    sizes = [root.latents.shape[-1] for root in roots]
    at = torch.cat([root.latents for root in roots], -1).detach()

    def minus_log_joint(z):
        parts = dict(zip(names, z.split(sizes, -1), strict=True))
        return -log_joint(model, args, values | parts)

    gradient = torch.autograd.functional.jacobian(minus_log_joint, at)
    assert float(gradient.abs().max()) < 1e-8
    hessian = torch.autograd.functional.hessian(minus_log_joint, at)
    expected = torch.stack([hessian[row, :, row] for row in range(NUM_ROWS)])
    found = torch.zeros_like(expected)
    begin = 0
    for root, size in zip(roots, sizes, strict=True):
        information = root.problem.information(root.solution.value)
        rows = slice(begin, begin + size)
        joined = information.shape[-1] == expected.shape[-1]
        if joined:
            found[:, rows] = information[:, root.place]
        else:
            found[:, rows, rows] = information[:, root.place, root.place]
        begin += size
    assert torch.allclose(found, expected, atol=1e-8)
    assert bool((torch.linalg.eigvalsh(expected) > 0).all())

    encoder = pef.DEQMAPGuide(model)
    encoder(*args)
    parameters = [x for x in encoder._trainable().values() if x.requires_grad]

    def loss():
        return Trace_ELBO().differentiable_loss(model, encoder, *args)

    slopes = torch.autograd.grad(loss(), parameters, allow_unused=True)
    directions = [torch.randn_like(x) for x in parameters]
    pairs = zip(slopes, directions, strict=True)
    slope = sum(float((g * v).sum()) for g, v in pairs if g is not None)
    around, step = [], 1e-5
    with torch.no_grad():
        for signed in (step, -2 * step):
            for x, v in zip(parameters, directions, strict=True):
                x.add_(v, alpha=signed)
            around.append(float(loss()))
    numeric = (around[0] - around[1]) / (2 * step)
    assert slope == pytest.approx(numeric, rel=1e-4, abs=1e-4)
