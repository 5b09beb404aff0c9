"""Containers in one basis: R-hat of rotated chains, products that stay, restarts that agree."""

import warnings

import arviz as az
import numpy as np
import pyro
import pytest
import scipy.linalg
import scipy.stats
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.optim import Adam

import pyro_expfam as pef

CHAINS, DRAWS, FEATURES, ROWS = 4, 200, 8, 10
FIRST_LINE = az.__version__.startswith("0.")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:arviz")


def container(posterior, dims=None):
    """Draws in ArviZ's own container, as chains of NUTS come."""
    return (
        az.from_dict(posterior, dims=dims)
        if FIRST_LINE
        else az.from_dict({"posterior": posterior}, dims=dims)
    )


def rhat(values):
    """The R-hat of each entry of draws ``(chain, draw, ...)``."""
    result = az.rhat(container({"x": values}))
    return np.asarray((result if "x" in result else result["posterior"])["x"])


def chains(latent_dim, dtype=np.float64, seed=0):
    """Draws around one loading and its latents."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(FEATURES, latent_dim)) * np.linspace(2, 1, latent_dim)
    z = rng.normal(size=(ROWS, latent_dim))
    lead = (CHAINS, DRAWS)
    draws = (
        W + 0.1 * rng.normal(size=(*lead, *W.shape)),
        z + 0.1 * rng.normal(size=(*lead, *z.shape)),
    )
    return tuple(x.astype(dtype) for x in draws)


def rotations(latent_dim, size, seed=1):
    if latent_dim == 1:
        return np.resize([1.0, -1.0], size)[:, None, None]
    return scipy.stats.ortho_group.rvs(latent_dim, size, random_state=seed)


def posterior_of(idata):
    return {str(name): array.values for name, array in idata["posterior"].data_vars.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_rhat_of_rotated_chains_is_that_of_the_draws(latent_dim, dtype):
    W, z = chains(latent_dim, dtype)
    Q = rotations(latent_dim, CHAINS)[:, None].astype(dtype)
    turned = container({"loading": W @ Q, "z": z @ Q})
    aligned = posterior_of(pef.align(turned))
    for name in ("loading", "z"):
        assert np.median(rhat(posterior_of(turned)[name])) > 1.5
        assert rhat(aligned[name]).max() < 1.05
        assert aligned[name].dtype == dtype
    np.testing.assert_allclose(
        aligned["z"] @ aligned["loading"].swapaxes(-1, -2),
        z @ W.swapaxes(-1, -2),
        atol=500 * np.finfo(dtype).eps,
    )


def test_rotations_of_single_draws_are_undone():
    W, z = chains(2)
    Q = rotations(2, CHAINS * DRAWS).reshape(CHAINS, DRAWS, 2, 2)
    straight = posterior_of(pef.align(container({"loading": W, "z": z})))
    turned = posterior_of(pef.align(container({"loading": W @ Q, "z": z @ Q})))
    for name in ("loading", "z"):
        np.testing.assert_allclose(turned[name], straight[name], atol=1e-9)


def test_latents_alone_get_one_rotation_a_chain():
    _, z = chains(2)
    Q = rotations(2, CHAINS)[:, None]
    aligned = posterior_of(pef.align(container({"z": z @ Q})))["z"]
    assert rhat(aligned).max() < 1.05
    # The shape of a chain, which a rotation of every draw would change.
    for found, given in zip(aligned, z, strict=True):
        residual = scipy.linalg.orthogonal_procrustes(given.reshape(-1, 2), found.reshape(-1, 2))[0]
        np.testing.assert_allclose(given @ residual, found, atol=1e-12)


def test_loadings_alone_are_aligned():
    W, _ = chains(2)
    Q = rotations(2, CHAINS)[:, None]
    assert rhat(posterior_of(pef.align(container({"loading": W @ Q})))["loading"]).max() < 1.05


class Supervised(PyroModule):
    """Two blocks, and a head on the latents of one."""

    def __init__(self):
        super().__init__()
        self.genes = pef.ExpFamPCA(pef.families.Poisson(), 6, 2)
        self.sites = pef.ExpFamPCA(pef.families.Bernoulli(), 4, 3)
        self.weight = PyroSample(pyro.distributions.Normal(0.0, 1.0).expand([2]).to_event(1))

    def forward(self, counts, bits):
        z = self.genes(counts)
        self.sites(bits)
        pyro.deterministic("score", z @ self.weight)


@pytest.fixture(scope="module")
def two_blocks():
    pyro.clear_param_store()
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((12, 6), 2.0))
    bits = torch.bernoulli(torch.full((12, 4), 0.5))
    model = Supervised()
    guide = pef.LaplaceGuide(model, global_guide=AutoNormal)
    dims = {"weight": ["genes.latent"]}
    return pef.to_arviz(model, guide, counts, bits, num_samples=30, dims=dims)


def products(posterior, block):
    return posterior[f"{block}.z"] @ posterior[f"{block}.loading"].swapaxes(-1, -2)


def test_blocks_are_aligned_one_by_one_and_nothing_else_changes(two_blocks):
    aligned = pef.align(two_blocks)
    assert type(aligned) is type(two_blocks)
    assert list(aligned.children if not FIRST_LINE else aligned.groups()) == list(
        two_blocks.children if not FIRST_LINE else two_blocks.groups()
    )
    before, after = posterior_of(two_blocks), posterior_of(aligned)
    assert list(before) == list(after)
    for block in ("genes", "sites"):
        np.testing.assert_allclose(products(after, block), products(before, block), atol=1e-5)
        assert not np.allclose(after[f"{block}.loading"], before[f"{block}.loading"])
        W = after[f"{block}.loading"].mean((0, 1))
        gram = W.T @ W
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-5)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"genes.loading", "genes.z", "sites.loading", "sites.z"}
    for name in ("log_likelihood", "posterior_predictive", "observed_data", "prior"):
        assert aligned[name].equals(two_blocks[name])
    dims = {name: array.dims for name, array in aligned["posterior"].data_vars.items()}
    assert dims == {name: x.dims for name, x in two_blocks["posterior"].data_vars.items()}


def test_an_aligned_posterior_can_be_saved(two_blocks, tmp_path):
    aligned = pef.align(two_blocks)
    aligned.to_netcdf(tmp_path / "aligned.nc")
    again = pef.align(az.from_netcdf(tmp_path / "aligned.nc"))
    for name, values in posterior_of(aligned).items():
        np.testing.assert_allclose(posterior_of(again)[name], values, atol=1e-4)


def test_weights_of_a_head_turn_when_named(two_blocks):
    after = posterior_of(pef.align(two_blocks, also=["weight"]))
    score = np.einsum("csnl,csl->csn", after["genes.z"], after["weight"])
    np.testing.assert_allclose(score, after["score"], atol=1e-5)


def test_references_are_by_block(two_blocks):
    reference = torch.randn(6, 2)
    aligned = posterior_of(pef.align(two_blocks, reference={"genes.loading": reference}))
    for draw in aligned["genes.loading"][0, :5]:
        Q, _ = scipy.linalg.orthogonal_procrustes(draw, reference.numpy())
        np.testing.assert_allclose(Q, np.eye(2), atol=1e-5)


def test_restarts_of_a_joint_fit_agree():
    torch.set_default_dtype(torch.float64)
    y = torch.poisson(torch.exp(torch.randn(60, 2) @ torch.randn(2, 8)))
    fits = []
    for seed in (1, 2):
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        model = pef.ExpFamPCA(pef.families.Poisson(), 8, 2)
        guide = pef.LaplaceGuide(model)
        # A step of another optimiser first, so that fits start from different places.
        SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO()).step(y)
        assert guide.fit(y, tol=1e-12).converged
        fits.append(pef.to_arviz(model, guide, y, num_samples=100, groups=["posterior"]))
    joined = pef.concat_chains(fits)
    apart = posterior_of(joined)["loading"][:, 0]
    assert np.abs(apart[0] - apart[1]).max() > 0.1
    aligned = posterior_of(pef.align(joined))
    together = aligned["loading"][:, 0]
    np.testing.assert_allclose(together[0], together[1], atol=1e-3)
    assert rhat(aligned["z"]).max() < 1.1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"idata": {"posterior": {}}}, TypeError, "container must be .* got dict"),
        ({"idata": container({"mu": np.zeros((2, 5))})}, ValueError, "idata must have a variable"),
        ({"idata": container({"z": np.zeros((2, 5, 3))})}, ValueError, "z must be of dimensions"),
        (
            {"idata": container({"z": np.full((2, 5, 3, 2), np.nan)})},
            ValueError,
            "z cannot be aligned: .* must be finite",
        ),
        ({"reference": torch.zeros(5, 2)}, ValueError, r"reference must be of shape \(8, 2\)"),
        ({"reference": {"W": torch.zeros(8, 2)}}, ValueError, r"reference .* got \['W'\]"),
        ({"also": ["weight"]}, ValueError, "also must be of variables .* got 'weight'"),
        ({"also": ["mu"]}, ValueError, "also must be of variables with one dimension"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    W, z = chains(2)
    mu = np.zeros((CHAINS, DRAWS, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        idata = container({"loading": W, "z": z, "mu": mu})
    with pytest.raises(error, match=message):
        pef.align(**{"idata": idata, **arguments})


def test_two_blocks_want_references_by_name(two_blocks):
    with pytest.raises(ValueError, match="reference must be a mapping from names among"):
        pef.align(two_blocks, reference=torch.zeros(6, 2))
