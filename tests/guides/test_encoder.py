"""A fitted guide as a layer of a network."""

import copy
import io

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from quick_cases import slow_unless
from torch import nn

import pyro_expfam as pef

F = pef.families


@pytest.fixture(scope="module")
def table():
    torch.manual_seed(0)
    return torch.poisson(torch.exp(0.5 * torch.randn(60, 2) @ torch.randn(2, 6)))


@pytest.fixture(scope="module")
def guide(table):
    model = pef.ExpFamPCA(F.Poisson(), 6, 2, latent_precision=0.5)
    fitted = pef.DEQMAPGuide(model)
    fitted.fit(table, progress=False)
    return fitted


def test_its_latents_are_those_of_the_guide(guide, table):
    encoder = pef.DEQEncoder(guide)
    mask = torch.rand(60, 6) > 0.2
    arguments = (table, 0.1 * torch.ones(60, 1), mask, torch.full((6,), 2.0))
    assert torch.allclose(encoder(*arguments), guide.latents(*arguments), atol=1e-5)
    assert bool(encoder.solution(table).converged.all())


def test_training_a_network_moves_the_loading_and_not_the_guide(guide, table):
    net = nn.Sequential(pef.DEQEncoder(guide), nn.Linear(2, 1))
    before = guide.loading.clone()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (net(table) - table[:, :1]).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert float((net[0].weight.detach() - before).abs().max()) > 0.01
    assert torch.equal(guide.loading, before)
    back = net[0].to_guide()
    assert torch.equal(back.loading, net[0].weight)
    assert torch.allclose(back.latents(table), net[0](table), atol=1e-5)
    assert torch.equal(guide.loading, before)


def test_the_guide_goes_on_to_check_and_arviz(guide, table):
    back = pef.DEQEncoder(guide).to_guide()
    assert pef.check(back.model, back, table, num_draws=100).blocks[""].num_rows == 60
    container = pef.to_arviz(back.model, back, table, num_samples=4)
    assert container["posterior"]["loading"].shape[-2:] == (6, 2)


def test_distances_in_the_orthogonal_basis_are_those_of_the_predictors(guide, table):
    z = pef.DEQEncoder(guide, basis="orthogonal")(table).double()
    eta = (guide.latents(table) @ guide.loading.mT).double()
    assert torch.allclose(
        (z[1:] - z[:-1]).norm(dim=-1), (eta[1:] - eta[:-1]).norm(dim=-1), rtol=1e-4
    )


def test_it_is_saved_and_copied(guide, table):
    net = nn.Sequential(pef.DEQEncoder(guide), nn.Linear(2, 1))
    stream = io.BytesIO()
    torch.save(net, stream)
    stream.seek(0)
    others = [torch.load(stream, weights_only=False), copy.deepcopy(net)]
    fresh = nn.Sequential(pef.DEQEncoder(guide), nn.Linear(2, 1))
    with torch.no_grad():
        fresh[0].weight.zero_()
    fresh.load_state_dict(net.state_dict())
    for other in (*others, fresh):
        assert torch.allclose(other(table), net(table))
    assert {name for name, _ in net.named_parameters()} == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    }


class Network(nn.Module):
    """A layer of latents between a transformation of the table and a head."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, y):
        return self.head(self.layer(y.sqrt().square().round()))


# An encoder is a layer, which is the function.
@pytest.mark.parametrize(
    "kind",
    slow_unless(("encoder", "guide").__contains__, ["encoder", "layer", "function", "guide"]),
)
def test_a_compiled_network_is_the_same_and_says_nothing(guide, table, kind, capfd):
    encoder = pef.DEQEncoder(guide)
    layer = {
        "encoder": encoder,
        "layer": pef.DEQLayer(F.Poisson(), 6, 2),
        "function": lambda y: pef.solve_latents(F.Poisson(), y, encoder.weight, encoder.bias).value,
        "guide": copy.deepcopy(guide).latents,
    }[kind]
    graphs = []

    def backend(graph, inputs):
        calls = [node.target for node in graph.graph.nodes if node.op.startswith("call")]
        graphs.append([getattr(target, "__name__", target) for target in calls])
        return graph.forward

    net = Network(layer)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend=backend)
    parameters = [*encoder.parameters(), *net.parameters()]
    for rows in (table, table[:50]):
        results = []
        for function in (net, compiled):
            loss = function(rows).square().mean()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            results.append([loss, *(0.0 if x is None else x for x in gradients)])
        torch.testing.assert_close(*results)
    # What stands before the layer and after it is compiled, and nothing of the solver.
    before, after = ["sqrt", "square", "round"], ["linear", "relu", "linear"]
    assert before in graphs
    assert after in graphs
    assert all(graph in (before, after) for graph in graphs)
    assert "Graph break" not in "".join(capfd.readouterr())


def test_it_trains_as_a_module_of_a_trainer_does(guide, table, tmp_path):
    # What a trainer such as Lightning does: modes, devices and dtypes, optimiser and checkpoints.
    net = nn.Sequential(pef.DEQEncoder(guide, basis="orthogonal"), nn.Linear(2, 1))
    net.train().to("cpu").double()
    assert {x.dtype for x in (*net.parameters(), *net.buffers())} == {torch.float64}
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    before = net[0].weight.detach().clone()
    for batch in table.split(20):
        optimiser.zero_grad()
        (net(batch) - batch[:, :1]).square().mean().backward()
        optimiser.step()
    assert net[0].weight.dtype == torch.float64
    assert not torch.equal(net[0].weight, before)
    state = {"net": net.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other = nn.Sequential(pef.DEQEncoder(guide, basis="orthogonal"), nn.Linear(2, 1)).double()
    other.load_state_dict(loaded["net"])
    net.eval(), other.eval()
    with torch.no_grad():
        assert torch.equal(other(table), net(table))
    back = net[0].to_guide()
    assert torch.allclose(back.loading.double(), net[0].weight, atol=1e-6)


def test_another_pyro_model_trains_it(guide, table):
    # A regression of a label on the latents, in which the layer is learnt too.
    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.encoder = pef.DEQEncoder(guide)
            self.slope = PyroSample(dist.Normal(torch.zeros(2), 1.0).to_event(1))

        def forward(self, y, label=None):
            mean = self.encoder(y) @ self.slope
            with pyro.plate("labels", len(y)):
                return pyro.sample("label", dist.Normal(mean, 0.5), obs=label)

    pyro.clear_param_store()
    model, label = Regression(), table.sum(1).log1p()
    around = AutoNormal(model)
    before = model.encoder.weight.detach().clone()
    svi = SVI(model, around, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(table, label) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert float((model.encoder.weight - before).detach().abs().max()) > 0.01
    back = model.encoder.to_guide()
    assert torch.equal(back.loading, model.encoder.weight)


def test_a_guide_itself_is_no_layer_of_a_sequence(guide, table):
    # A guide returns its sites by name, as Pyro's guides do. So it never trains without a word.
    with pytest.raises(TypeError, match="must be Tensor, not dict"):
        nn.Sequential(guide, nn.Linear(2, 1))(table)
    # A network that takes the latents out of them does train the loading.
    own = copy.deepcopy(guide)
    head = nn.Linear(2, 1)
    before = own.loading.clone()
    optimiser = torch.optim.Adam([*own.parameters(), *head.parameters()], 1e-2)
    for _ in range(5):
        optimiser.zero_grad()
        (head(own(table)["z"]) - table[:, :1]).square().mean().backward()
        optimiser.step()
    assert float((own.loading - before).abs().max()) > 0.01


def test_what_is_no_trained_guide_of_a_block_is_refused(guide):
    with pytest.raises(TypeError, match=r"guide must be a guide of this package.*got Linear"):
        pef.DEQEncoder(nn.Linear(2, 1))
    with pytest.raises(ValueError, match="basis must be 'latent' or 'orthogonal', got 'x'"):
        pef.DEQEncoder(guide, basis="x")
    with pytest.raises(ValueError, match="guide must be trained"):
        pef.DEQEncoder(pef.DEQMAPGuide(pef.ExpFamPCA(F.Poisson(), 6, 2)))
    scaled = pef.ExpFamPCA(F.Poisson(), 6, 2, latent_scale=torch.ones(2))
    with pytest.raises(ValueError, match="one known precision"):
        pef.DEQEncoder(pef.DEQMAPGuide(scaled))


@pytest.mark.parametrize(
    "family",
    [
        F.Bernoulli(),
        F.Poisson(),
        F.Gamma(2.0),
        F.Categorical(3),
        F.ContinuousBernoulli(),
        F.Bernoulli(link=pef.links.Probit()),
        F.Poisson(link=pef.links.Softplus()),
        F.Gaussian(1.0, link=pef.links.Log()),
        F.from_activation(lambda r: torch.exp(r) + torch.tanh(r)),
    ],
    ids=str,
)
def test_forward_derivatives_of_the_layer_are_those_backwards(family):
    torch.manual_seed(0)
    levels = family.predictors_per_column
    W = torch.randn(4 * levels, 2, dtype=torch.float64)
    b = 0.1 * torch.randn(4 * levels, dtype=torch.float64)
    y = family.decode(family.sample(torch.zeros(5, 4 * levels, dtype=torch.float64)))

    def latents(W, b):
        return pef.solve_latents(family, y, W, b).value

    for place in (0, 1):
        forward = torch.func.jacfwd(latents, argnums=place)(W, b)
        assert torch.allclose(forward, torch.func.jacrev(latents, argnums=place)(W, b))

    def loss(W):
        return latents(W, b).square().sum()

    hessian = torch.func.hessian(loss)(W)
    assert torch.allclose(hessian, torch.func.jacrev(torch.func.jacrev(loss))(W))
    tangent = torch.func.jvp(lambda W: latents(W, b), (W,), (torch.ones_like(W),))[1]
    step = 1e-6
    numeric = (latents(W + step, b) - latents(W - step, b)) / (2 * step)
    assert torch.allclose(tangent, numeric, atol=1e-6)
