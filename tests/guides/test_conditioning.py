"""What a guide says of observed sites that its latents ignore."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList
from pyro.nn import PyroModule
from pyro.optim import Adam

import pyro_expfam as pef
from pyro_expfam.guides import ConditioningWarning

NUM_ROWS = 12
BITS, COUNTS = pef.families.Bernoulli(), pef.families.Poisson()


def bits():
    return torch.bernoulli(torch.full((NUM_ROWS, 6), 0.4))


def label(mean):
    with pyro.plate("labels", NUM_ROWS):
        pyro.sample("label", dist.Normal(mean, 1.0), obs=torch.zeros(NUM_ROWS))


def through_a_latent(z):
    with pyro.plate("effects", NUM_ROWS):
        effect = pyro.sample("effect", dist.Normal(z.sum(-1), 1.0))
    label(effect)


def discrete(z):
    with pyro.plate("labels", NUM_ROWS):
        pyro.sample("label", dist.Categorical(logits=z), obs=torch.zeros(NUM_ROWS))


def predicted(z):
    with pyro.plate("labels", NUM_ROWS):
        pyro.sample("label", dist.Normal(z.sum(-1), 1.0))


class Head(PyroModule):
    """A block and what is made of its latents."""

    def __init__(self, head):
        super().__init__()
        self.pca = pef.ExpFamPCA(BITS, 6, 2)
        self.head = head

    def forward(self, y):
        self.head(self.pca(y))


class Tables(PyroModule):
    """Two blocks, the second with an offset from the latents of the first."""

    def __init__(self, depends):
        super().__init__()
        self.bits = pef.ExpFamPCA(BITS, 6, 2)
        self.counts = pef.ExpFamPCA(COUNTS, 4, 1)
        self.depends = depends

    def forward(self, bits, counts):
        z = self.bits(bits)
        self.counts(counts, offset=z[..., :1] if self.depends else None)


LINEAR, RECURRENT = torch.nn.Linear(2, 1), torch.nn.GRU(2, 1)
DEPENDENT = {
    "sum": lambda z: label(z.sum(-1)),
    "layer": lambda z: label(LINEAR(z).squeeze(-1)),
    "recurrent": lambda z: label(RECURRENT(z)[0].squeeze(-1)),
    # No gradient comes through it.
    "threshold": lambda z: label((z[:, 0] > 0).float()),
    "variance": lambda z: label(torch.zeros(NUM_ROWS) * z[:, 0]),
    "categories": discrete,
    "latent between": through_a_latent,
    "factor": lambda z: pyro.factor("label", -z.square().sum()),
}
INDEPENDENT = {
    "nothing": lambda z: None,
    "another mean": lambda z: label(torch.zeros(NUM_ROWS)),
    "deterministic": lambda z: pyro.deterministic("label", z @ torch.ones(2)),
    "drawn": predicted,
}


def silently(call, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConditioningWarning)
        return call(*args)


@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
@pytest.mark.parametrize("head", DEPENDENT.values(), ids=DEPENDENT)
def test_a_guide_warns_once_of_a_site_that_depends_on_the_latents(make, head):
    y = bits()
    guide = make(Head(head))
    with pytest.warns(ConditioningWarning, match=r"'label' on 'pca\.z'.*NUTS"):
        guide.median(y)
    silently(guide, y)


@pytest.mark.parametrize("head", INDEPENDENT.values(), ids=INDEPENDENT)
def test_nothing_is_said_where_nothing_is_ignored(head):
    silently(pef.DEQMAPGuide(Head(head)), bits())
    silently(pef.DEQMAPGuide(pef.ExpFamPCA(BITS, 6, 2)), bits())


@pytest.mark.parametrize("depends", [True, False])
def test_the_table_of_another_block(depends):
    guide = pef.DEQMAPGuide(Tables(depends))
    data = bits(), torch.poisson(torch.ones(NUM_ROWS, 4))
    if depends:
        with pytest.warns(ConditioningWarning, match=r"'counts\.y' on 'bits\.z'\. The latents"):
            guide(*data)
    else:
        silently(guide, *data)


def test_looking_changes_neither_draws_nor_parameters():
    draws = []
    for head in (DEPENDENT["sum"], INDEPENDENT["nothing"]):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        y, guide = bits(), pef.LaplaceGuide(Head(head))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConditioningWarning)
            draws.append(guide(y)["pca.z"])
    assert torch.equal(*draws)


def test_guides_that_share_parameters_warn_once():
    model, y = Head(DEPENDENT["sum"]), bits()
    trained = pef.DEQMAPGuide(model)
    guide = pef.LaplaceGuide(model, params=trained)
    with pytest.warns(ConditioningWarning):
        guide(y)
    silently(trained, y)


def test_a_training_step_and_a_guide_list():
    model, y = Head(DEPENDENT["sum"]), bits()
    with pytest.warns(ConditioningWarning):
        SVI(model, pef.DEQMAPGuide(model), Adam({}), Trace_ELBO()).step(y)
    guide = AutoGuideList(model)
    guide.append(AutoDelta(poutine.block(model, expose=["pca.loading", "pca.intercept"])))
    guide.append(pef.DEQMAPGuide(poutine.block(model, expose=["pca.z"])))
    with pytest.warns(ConditioningWarning, match=r"'label' on 'pca\.z'"):
        guide(y)


def test_the_latents_are_those_of_the_table_alone():
    model, y = Head(DEPENDENT["sum"]), bits()
    guide = pef.DEQMAPGuide(model)
    with pytest.warns(ConditioningWarning):
        latents = guide(y)["pca.z"]
    root = pef.solve_latents(BITS, y, guide.loading, guide.intercept).value
    torch.testing.assert_close(latents, root)


class Optional(PyroModule):
    """A model that observes a site only if it is given."""

    def __init__(self):
        super().__init__()
        self.pca = pef.ExpFamPCA(BITS, 6, 2)

    def forward(self, y, x=None, more=None, is_labelled=False):
        z = self.pca(y)
        for name, value in (("x", x), *(more or {}).items()):
            with pyro.plate(name + "_rows", NUM_ROWS):
                pyro.sample(name, dist.Normal(z.sum(-1), 1.0), obs=value)
        if is_labelled:
            label(z.sum(-1))


ALSO = {
    "an argument": ((torch.zeros(NUM_ROWS),), {}, "'x' on 'pca"),
    "a keyword": ((), {"x": torch.zeros(NUM_ROWS)}, "'x' on 'pca"),
    "a key": ((), {"more": {"w": torch.zeros(NUM_ROWS)}}, "'w' on 'pca"),
    "a flag": ((), {"is_labelled": True}, "'label' on 'pca"),
}


@pytest.mark.parametrize(("args", "kwargs", "named"), ALSO.values(), ids=ALSO)
@pytest.mark.parametrize("shares", [False, True])
def test_a_site_that_is_observed_later_is_named_then(args, kwargs, named, shares):
    model, y = Optional(), bits()
    guide = pef.DEQMAPGuide(model)
    if shares:
        guide = pef.LaplaceGuide(model, params=guide)
    silently(guide, y)
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    silently(svi.step, y)
    with pytest.warns(ConditioningWarning, match=named):
        svi.step(y, *args, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConditioningWarning)
        svi.step(y, *args, **kwargs)
        guide.median(y, *args, **kwargs)
        svi.step(y)


def test_the_model_is_not_run_again_for_the_same_kind_of_call():
    model, y = Optional(), bits()
    guide = pef.DEQMAPGuide(model)
    guide(y)
    runs = []
    model.register_forward_pre_hook(lambda *call: runs.append(call))
    for _ in range(3):
        guide(y)
    assert len(runs) == 3
