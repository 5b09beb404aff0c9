"""Traced losses, and tables that change between calls."""

import pyro
import pytest
import torch
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.optim import SGD
from quick_cases import in_turn, slow_unless

import pyro_expfam as pef

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated"),
]
NUM_ROWS, NUM_FEATURES = 12, 6
BITS = pef.families.Bernoulli()
FAMILIES = [
    pef.families.Gaussian(0.7),
    pef.families.Gaussian(),
    pef.families.Bernoulli(),
    pef.families.Ising(),
    pef.families.ContinuousBernoulli(),
    pef.families.Poisson(),
    pef.families.Binomial(16),
]
LOSSES = [
    (Trace_ELBO, JitTrace_ELBO),
    (TraceGraph_ELBO, JitTraceGraph_ELBO),
    (TraceMeanField_ELBO, JitTraceMeanField_ELBO),
]


def bits(num_rows=NUM_ROWS):
    return torch.bernoulli(torch.full((num_rows, NUM_FEATURES), 0.4))


def block():
    return pef.ExpFamPCA(BITS, NUM_FEATURES, 2)


def trained(loss, make, batches, model=None):
    """Losses of steps on batches, and the parameters that they lead to."""
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    model = block() if model is None else model()
    guide = make(model)
    guide(*batches[0])
    svi = SVI(model, guide, SGD({"lr": 0.01}), loss)
    losses = []
    for batch in batches:
        pyro.set_rng_seed(2)
        losses.append(svi.step(*batch))
    return torch.tensor(losses), torch.cat([x.detach().flatten() for x in guide.parameters()])


def agree(losses, make, batches, model=None):
    """Whether a traced loss and another agree on batches."""
    plain, traced = (trained(loss(), make, batches, model) for loss in losses)
    assert plain[0][0] != plain[0][1]
    torch.testing.assert_close(traced, plain)


@pytest.mark.parametrize(
    ("losses", "dtype"), in_turn(LOSSES, [torch.float32, torch.float64, torch.int64])
)
def test_a_traced_loss_is_that_of_its_batch(losses, dtype):
    first, second = bits().to(dtype), torch.ones(NUM_ROWS, NUM_FEATURES, dtype=dtype)
    agree(losses, pef.DEQMAPGuide, [(first,), (second,), (first,)])


@pytest.mark.parametrize(("family", "losses"), in_turn(FAMILIES, LOSSES))
def test_a_traced_loss_of_every_family_is_that_of_its_batch(family, losses):
    def model():
        return pef.ExpFamPCA(family, NUM_FEATURES, 2)

    known = pef.families.Gaussian(0.7) if isinstance(family, pef.families.Gaussian) else family
    batches = [
        (known.sample(torch.randn(num_rows, 1) @ torch.randn(1, NUM_FEATURES)),)
        for num_rows in (NUM_ROWS, NUM_ROWS, 5)
    ]
    agree(losses, pef.DEQMAPGuide, batches, model)


@pytest.mark.parametrize(
    "family",
    # The traced loss of every family is compared below, under the guide of the mode.
    slow_unless(
        lambda family: isinstance(family, pef.families.Gaussian | pef.families.Poisson), FAMILIES
    ),
    ids=str,
)
def test_a_traced_loss_takes_the_laplace_guide_of_every_family(family):
    pyro.clear_param_store()
    model = pef.ExpFamPCA(family, NUM_FEATURES, 2)
    svi = SVI(model, pef.LaplaceGuide(model), SGD({"lr": 0.001}), JitTrace_ELBO())
    y = torch.full((NUM_ROWS, NUM_FEATURES), 1.0)
    losses = torch.tensor([svi.step(y) for _ in range(3)])
    assert losses.isfinite().all()
    assert len(set(losses.tolist())) == 3


@pytest.mark.parametrize("warm_start", [True, False])
def test_a_traced_loss_takes_batches_of_any_size(warm_start):
    def make(model):
        return pef.DEQMAPGuide(model, warm_start=warm_start)

    agree(LOSSES[0], make, [(bits(),), (bits(5),), (bits(7),)])


@pytest.mark.parametrize("losses", LOSSES, ids=lambda losses: losses[0].__name__)
def test_all_that_comes_with_a_table_is_traced(losses):
    def model():
        table = block()
        return lambda y, offset, mask, weights: table(y, offset, mask, weights)

    batches = [
        (
            bits().long(),
            torch.randn(NUM_ROWS, 1).double(),
            torch.rand(NUM_ROWS, NUM_FEATURES) < 0.6,
            torch.rand(NUM_FEATURES).double(),
        )
        for _ in range(3)
    ]
    agree(losses, pef.DEQMAPGuide, batches, model)


def test_rows_of_a_minibatch_are_traced():
    y = bits()

    def model():
        table = block()
        return lambda y, rows: table(y, num_rows=NUM_ROWS, rows=rows)

    batches = [(y[rows], rows) for rows in torch.arange(NUM_ROWS).view(3, 4)]
    agree(LOSSES[0], pef.DEQMAPGuide, batches, model)
    guide_of = model()
    svi = SVI(guide_of, pef.DEQMAPGuide(guide_of), SGD({"lr": 0.01}), JitTrace_ELBO())
    svi.step(*batches[0])
    with pytest.raises(RuntimeError, match="rows must be between 0 and 11, got -4"):
        svi.step(y[:4], torch.arange(4) - 4)


def test_the_laplace_guide_under_a_traced_loss():
    def expected(loss):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        model = block()
        guide = pef.LaplaceGuide(model)
        guide(bits())
        with torch.no_grad():
            draws = [[loss(model, guide, y) for y in batches] for _ in range(80)]
        return torch.tensor(draws)

    batches = [bits().long(), torch.ones(NUM_ROWS, NUM_FEATURES).long()]
    plain, traced = expected(Trace_ELBO().loss), expected(JitTrace_ELBO().differentiable_loss)
    error = (plain.var(0) / 80 + traced.var(0) / 80).sqrt()
    assert ((plain.mean(0) - traced.mean(0)).abs() < 5 * error + 1e-3).all()


def test_values_are_checked_in_every_call():
    model = block()
    svi = SVI(model, pef.DEQMAPGuide(model), SGD({"lr": 0.01}), JitTrace_ELBO())
    svi.step(bits())
    with pytest.raises(RuntimeError, match="y must be in the support of Bernoulli"):
        svi.step(bits() + 2)


def test_arguments_that_cannot_be_traced_are_refused():
    model = block()
    svi = SVI(model, pef.DEQMAPGuide(model), SGD({"lr": 0.01}), JitTrace_ELBO())
    with pytest.raises(ValueError, match=r"y must be .* positional .* got one passed by"):
        svi.step(y=bits())
    with pytest.raises(TypeError, match=r"y must be .* positional .* got list"):
        svi.step(y=bits().tolist())
    with pytest.raises(ValueError, match=r"offset must be .* positional"):
        svi.step(bits(), offset=torch.zeros(NUM_ROWS, 1))


@pytest.mark.parametrize("kind", ["float32", "float64", "int64"])
@pytest.mark.parametrize("make", [pef.DEQMAPGuide, pef.LaplaceGuide])
def test_a_guide_reads_an_array_that_is_refilled(kind, make):
    first, second = bits(), bits()
    buffer = first.numpy().astype(kind)
    y = torch.from_numpy(buffer)
    guide = make(block())
    with torch.no_grad():
        guide(y)
        buffer[:] = second.numpy()
        expected = guide.latents(second.clone())
        torch.testing.assert_close(guide.median(y)["z"], expected)
        if make is pef.DEQMAPGuide:
            torch.testing.assert_close(guide(y)["z"], expected)


@pytest.mark.parametrize(
    ("name", "dtype"),
    in_turn(["y", "offset", "weights"], [torch.float32, torch.float64, torch.int64]),
)
def test_svi_trains_on_a_buffer_as_it_is_filled(name, dtype):
    tables = [bits() + (name != "y") for _ in range(3)]

    def losses(refilled):
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        model, y = block(), bits()
        svi = SVI(model, pef.DEQMAPGuide(model), SGD({"lr": 0.01}), Trace_ELBO())
        buffer = tables[0].to(dtype).numpy().copy()
        found = []
        for table in tables:
            buffer[:] = table.numpy()
            entries = torch.from_numpy(buffer if refilled else buffer.copy())
            found.append(svi.step(**{"y": y, name: entries}))
        return found

    assert losses(refilled=True) == losses(refilled=False)
