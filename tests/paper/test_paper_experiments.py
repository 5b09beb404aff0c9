"""Small versions of the paper's experiments, which fail if a method or the protocol is wrong."""

import json

import downstream
import figures
import numpy as np
import pytest
import scipy.spatial
import seconds
import torch
from compiled_heads import MeanSquaredErrors
from downstream_table import Score, by_family, interval, markdown, read_csv, scores_of, write_csv
from embeddings import deq, embed, log1p_pca, plain_pca, scaled_pca
from ground_truth import some_latents, true_latents
from head_networks import SideBySide, batches, errors, train
from map_colours import colours_of
from map_scores import global_position_score, procrustes
from paper_guide import fitted_guide
from paper_tables import FAMILIES, LATENT_DIM, NUM_FEATURES, random_table
from quick_cases import slow_unless
from torch import nn
from trial import run_trial, split
from trial_records import read_all

import pyro_expfam as pef


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_ground_truth_is_the_paper_s():
    z = true_latents()
    assert z.shape == (42_453, 2)
    steps = ((z + 5) * 315 / 10).double()
    assert float((steps - steps.round()).abs().max()) < 1e-3  # a grid of 316 x 316
    areas = np.pi * 3**2 + np.pi * 2**2 + 2 * 1**2
    assert len(z) == pytest.approx(areas / 10**2 * 315**2, rel=3e-3)
    assert torch.equal(some_latents(len(z)), z)
    few = {tuple(point) for point in some_latents(100).tolist()}
    assert len(few) == 100
    assert few < {tuple(point) for point in z.tolist()}
    with pytest.raises(ValueError, match="num_rows must be between 1 and 42453, got 0"):
        some_latents(0)


@pytest.mark.parametrize("name", FAMILIES)
def test_random_tables_have_the_natural_parameters_of_the_paper(name):
    family, y, z, loading = random_table(name, 2000, 0)
    assert loading.shape == (NUM_FEATURES, LATENT_DIM)
    assert float(loading.var()) == pytest.approx(0.5, rel=0.5)
    eta = z @ loading.T
    mean = eta.exp() if name == "Negative binomial" else family.mean(eta)
    residual = (y - mean).double()
    standard_errors = residual.std(0) / len(y) ** 0.5
    assert bool((residual.mean(0).abs() < 5 * standard_errors + 1e-3).all())
    if name == "Gaussian":
        assert float(residual.var()) == pytest.approx(1, rel=0.02)
    assert torch.equal(random_table(name, 2000, 0).y, y)
    assert not torch.equal(random_table(name, 2000, 1).loading, loading)


def test_the_prior_of_the_loading_is_the_weight_decay_of_the_published_code():
    # The loss of N rows is divided by 2 N, and Adam adds 0.52 W to its gradient.
    family, y, _, _ = random_table("Bernoulli", 300, 0)
    guide = fitted_guide(family, y)
    guide.fit(y, tol=1e-9, progress=False)
    z, W = guide.latents(y).detach(), guide.loading
    score = (y - family.mean(z @ W.T + guide.intercept)).T @ z
    assert torch.allclose(score / (2 * len(y)), 0.52 * W, atol=1e-4)
    assert torch.allclose(0.1 * z, (y - family.mean(z @ W.T + guide.intercept)) @ W,
                          atol=1e-3)  # fmt: skip


@pytest.mark.slow
def test_the_start_finds_a_better_optimum_of_counts():
    family, y, _, _ = random_table("Poisson", 800, 0)
    model = pef.ExpFamPCA(family, NUM_FEATURES, LATENT_DIM, **pef.paper_prior(len(y)))
    from_residuals = pef.DEQMAPGuide(model).fit(y, progress=False)
    ours = fitted_guide(family, y).fit(y, progress=False)
    assert ours.objective < from_residuals.objective - 1000


def test_heads_in_one_pass_are_those_of_pytorch():
    torch.manual_seed(0)
    x, target = torch.randn(3, 40, 2, requires_grad=True), torch.randn(40)
    shapes = (3, 2, 10), (3, 10), (3, 10), (3,)
    parameters = [torch.randn(shape, requires_grad=True) for shape in shapes]
    V, c, w, b = parameters
    hidden = (x @ V + c.unsqueeze(1)).relu()
    wanted = ((hidden * w.unsqueeze(1)).sum(-1) + b.unsqueeze(1) - target).square().mean(-1)
    found = MeanSquaredErrors.apply(x, target, *parameters)
    assert torch.allclose(found, wanted, rtol=1e-5)
    weights = torch.rand(3)
    for ours, theirs in zip(
        torch.autograd.grad(found @ weights, (x, *parameters)),
        torch.autograd.grad(wanted @ weights, (x, *parameters)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_heads_side_by_side_are_trained_as_if_alone():
    torch.manual_seed(0)
    embeddings, y, target = torch.randn(2, 1200, 2), torch.randn(1200, 5), torch.randn(1200)
    network = SideBySide(2, {}, 5, 2)
    alone = nn.Sequential(nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 1))
    heads = network.heads
    with torch.no_grad():
        for parameter, value in zip(
            alone.parameters(),
            (heads.hidden_weight[1].T, heads.hidden_bias[1], heads.weight[1:], heads.bias[1:]),
            strict=True,
        ):
            parameter.copy_(value)
    torch.manual_seed(1)
    train(network, embeddings, y, target, num_epochs=3)
    torch.manual_seed(1)
    optimiser = torch.optim.Adam(alone.parameters())
    for _ in range(3):
        order = torch.randperm(1200)
        for x, _, wanted in batches(embeddings[:, order], y[order], target[order], 500):
            optimiser.zero_grad()
            nn.functional.mse_loss(alone(x[1]).squeeze(-1), wanted).backward()
            optimiser.step()
    with torch.no_grad():
        wanted = (alone(embeddings[1]).squeeze(-1) - target).square().mean()
    assert torch.allclose(errors(network, embeddings, y, target)[1], wanted, rtol=1e-4)


def test_procrustes_undoes_turns_mirrors_scales_and_shifts():
    truth = some_latents(300)
    turn = torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    found = procrustes(3 * truth @ turn + torch.tensor([7.0, -1.0]), truth)
    assert found.error < 1e-10
    assert torch.allclose(found.points, truth, atol=1e-4)
    noisy = truth + torch.randn(300, 2)
    disparity = scipy.spatial.procrustes(truth.double().numpy(), noisy.double().numpy())[2]
    assert procrustes(noisy, truth).error == pytest.approx(disparity, rel=1e-4)
    assert procrustes(torch.randn(300, 2), truth).error > 0.9


def test_the_position_score_is_a_rank_correlation_of_distances():
    truth = some_latents(300)
    assert global_position_score(-5 * truth + 1, truth) == pytest.approx(1)
    assert abs(global_position_score(torch.randn(300, 2), truth)) < 0.05
    # Shapes that change places keep the distances within them, and lose those between them.
    swapped = torch.where(truth.sum(1, keepdim=True) > 0, truth, truth + 9)
    assert global_position_score(swapped, truth) < 0.8


@pytest.mark.parametrize(
    "name",
    slow_unless(
        ("Poisson", "Ising").__contains__, ["Poisson", "Binomial", "Negative binomial", "Ising"]
    ),
)
def test_the_layer_s_map_is_closer_to_the_truth_than_pca(name):
    family, y, z, _ = random_table(name, 600, 0)
    ours, theirs = (embed(learn, y, y[:10]) for learn in (deq(family), scaled_pca))
    assert procrustes(ours.train, z).error < 0.85 * procrustes(theirs.train, z).error
    assert global_position_score(ours.train, z) > global_position_score(theirs.train, z)
    assert torch.allclose(ours.test, ours.train[:10], atol=1e-3)


def test_pca_is_that_of_columns_scaled_or_not_or_of_logarithms():
    y = torch.poisson(torch.exp(torch.randn(50, 5)))
    for learn, table in (
        (plain_pca, y),
        (log1p_pca, y.log1p()),
        (scaled_pca, (y - y.mean(0)) / y.std(0, correction=0)),
    ):
        centred = (table - table.mean(0)).double()
        scores = centred @ torch.linalg.svd(centred).Vh[:2].T
        assert torch.allclose(learn(y)(y).abs(), scores.abs().float(), atol=1e-4)


@pytest.mark.slow
def test_fine_tuning_beats_frozen_latents_and_pca_downstream():
    record = run_trial("Poisson", 0, 1500, num_epochs=40, with_umap=False)
    error = record["errors"]
    assert error["DEQ"] < 0.9 * error["DEQ, frozen"]
    assert error["DEQ"] < 0.5 * error["PCA, scaled"]
    assert error["DEQ"] < error["network on y"]


def test_training_and_test_rows_are_a_partition():
    train_rows, test_rows = split(1000)
    assert len(train_rows) == 800
    assert torch.equal(torch.cat([train_rows, test_rows]).sort().values, torch.arange(1000))


def test_an_interrupted_run_goes_on_and_finds_the_same(tmp_path, capsys):
    options = ["--rows", "300", "--trials", "2", "--epochs", "2", "--without-umap"]
    options += ["--families", "Bernoulli", "--out", str(tmp_path)]
    downstream.main(options)
    first, second = sorted(tmp_path.glob("*.json"))
    before = {path: json.loads(path.read_text()) for path in (first, second)}
    written = first.stat().st_mtime_ns
    second.unlink()
    second.with_suffix(".partial").write_text("{")  # what an interrupted write leaves
    downstream.main(options)
    assert first.stat().st_mtime_ns == written
    again = json.loads(second.read_text())
    for part in ("settings", "errors", "train_errors"):
        assert again[part] == before[second][part]
    assert before[first]["errors"] != before[second]["errors"]
    assert (tmp_path / "tables.md").read_text() in capsys.readouterr().out + "\n"
    with pytest.raises(ValueError, match="must hold a trial with"):
        downstream.main([*options, "--rows", "200"])


def test_tables_count_wins_as_the_paper_does(tmp_path):
    found = {"PCA, scaled": (3.0, 1.0, 5.0), "UMAP": (2.0, 4.0, 4.0), "DEQ": (1.0, 2.0, 3.0)}
    scores = [
        Score("Poisson", trial, 100, 80, method, error, 0.5, 0.25)
        for method, by_trial in found.items()
        for trial, error in enumerate(by_trial)
    ]
    family = by_family(scores)["Poisson"]
    assert family.wins_among(list(found)) == {"PCA, scaled": 1, "UMAP": 0, "DEQ": 2}
    text = markdown(scores)
    assert "| Poisson | 1 | 0 | 2 |" in text
    assert "| Poisson | 2 of 3 | 3 of 3 |" in text
    assert interval(np.array([1.0, 2.0, 3.0])) == "2 ± 2.5"  # 4.303 / sqrt(3)
    write_csv(scores, tmp_path / "scores.csv")
    assert read_csv(tmp_path / "scores.csv") == scores


def test_the_committed_scores_make_the_committed_tables():
    folder = downstream.DEFAULT_FOLDER.parents[1] / "paper" / "results"
    page = folder.parents[2] / "docs" / "paper_results.md"
    assert markdown(read_csv(folder / "downstream.csv")) in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_figures_draw_what_is_missing_and_keep_what_is_there(tmp_path, capsys):
    options = ["--rows", "200", "--methods", "PCA", "DEQ", "--families", "Poisson", "Ising"]
    figures.main([*options, "--out", str(tmp_path)])
    files = sorted(path.name for path in tmp_path.glob("*"))
    assert files == ["figure_2.png", "figure_3.png", *(
        f"{name}_{method}_200.npz" for name in ("ising", "poisson") for method in ("deq", "pca")
    )]  # fmt: skip
    printed = capsys.readouterr().out
    figures.main([*options, "--out", str(tmp_path)])
    assert capsys.readouterr().out == printed


def test_seconds_are_measured_once(tmp_path, capsys):
    file = tmp_path / "seconds.csv"
    options = ["--rows", "200", "--families", "Bernoulli", "--methods", "PCA", "DEQ"]
    seconds.main([*options, "--csv", str(file), "--trials", "2"])
    assert [found[:4] for found in seconds.read(file)] == [
        ("Bernoulli", method, trial, 200) for method in ("PCA", "DEQ") for trial in (0, 1)
    ]
    before = file.read_text()
    seconds.main([*options, "--csv", str(file)])
    assert file.read_text() == before
    assert "| Bernoulli |" in capsys.readouterr().out


def test_the_table_of_seconds_compares_medians_with_the_layer():
    found = [
        seconds.Measurement("Poisson", method, trial, 42_453, value)
        for method, values in (("UMAP", (60.0,)), ("DEQ", (1.0, 2.0, 9.0)))
        for trial, value in enumerate(values)
    ]
    found.append(seconds.Measurement("Poisson", "t-SNE", 0, 5000, 30.0))
    row = "| Poisson |  | 30 for 5,000 rows | 60, 30 times DEQ | 2 |"
    assert row in seconds.markdown(found)


def test_colours_tell_positions_apart():
    colours = colours_of(true_latents().numpy())
    assert colours.shape == (42_453, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert np.abs(colours - colours_of(true_latents().numpy() + 0.01)).max() < 0.03
    assert np.abs(colours[0] - colours[-1]).max() > 0.2


@pytest.mark.slow
def test_a_trial_has_umap_too(tmp_path):
    record = run_trial("Gaussian", 0, 300, num_epochs=2)
    assert {"UMAP", "true latents", "network on y"} < record["errors"].keys()
    assert record["seconds"]["UMAP"] > 0
    assert [score.method for score in scores_of([record])] == list(record["errors"])
    assert read_all(tmp_path) == []
