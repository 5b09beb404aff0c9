"""Several processes find the estimate of one, and end together."""

import functools
import re

import numpy as np
import pytest
import torch
import zarr
from all_families import ON_THE_REAL_LINE, Geometric
from process_tasks import (
    ends_of_fits,
    fit_cases,
    fitted,
    interrupted_on_the_way_to_a_start,
    latents_in_order,
    message_of_bad_checkpoint,
    message_of_bad_fit,
    message_of_other_arguments,
    message_of_other_sums,
    poisson_guide,
    trained_by_svi,
    trained_in_parallel,
    with_checkpoint,
    with_own_folder,
)
from quick_cases import name_of

import pyro_expfam as pef
from pyro_expfam import families
from pyro_expfam.joint import ProcessesError

EVIDENCE = pef.LaplaceEvidence()
NUM_ROWS, COUNTS = 40, (1, 2, 3, 4)


def guide_of(family, num_features, dtype, loading_scale, rows):
    own = family.rows(rows) if family.differs_by_row else family
    block = pef.ExpFamPCA(own, num_features, 2, loading_scale=loading_scale)
    return pef.DEQMAPGuide(block.to(dtype))


def case(
    family,
    loss=None,
    arguments=None,
    dtype=torch.float64,
    drawn_from=None,
    loading_scale="weak",
    **settings,
):
    """A guide, a table that the family could have made, and the settings of its fit."""
    num_features, law = 3, drawn_from or family
    eta = torch.randn(NUM_ROWS, law.num_predictors(num_features), dtype=torch.float64) / 2
    if isinstance(family, Geometric):
        eta = -eta.exp()
    y = law.decode(law.sample(eta))
    make = functools.partial(guide_of, family, num_features, dtype, loading_scale)
    return make, y, arguments or {}, loss, {"max_sweeps": 6, **settings}


def agree(alone, together, rtol):
    """Whether all processes have the same bits, and the estimate of one process."""
    first = together[0]
    for other in together:
        assert torch.equal(other["coefficients"], first["coefficients"])
        assert other["objectives"] == first["objectives"]
        for name, x in first["parameters"].items():
            if x.shape[:-1] in ((), (1,)):
                assert torch.equal(other["parameters"][name], x)
    found = {**first, "latents": torch.cat([x["latents"] for x in together])}
    for name in ("coefficients", "latents"):
        scale = float(alone[name].abs().max())
        torch.testing.assert_close(found[name], alone[name], rtol=0.0, atol=rtol * scale)
    for name, x in alone["parameters"].items():
        if x.shape == first["parameters"][name].shape:
            torch.testing.assert_close(first["parameters"][name], x, rtol=rtol, atol=0.0)
    assert found["objectives"] == pytest.approx(alone["objectives"], rel=rtol)
    assert found["reason"] == alone["reason"]


def check_cases(pool, cases, counts, rtol=1e-10):
    alone = {name: fitted(*x[:4], **x[4]) for name, x in cases.items()}
    answers = pool.run(fit_cases, cases, counts)
    for name in cases:
        for count in counts:
            agree(alone[name], [x[name, count] for x in answers if (name, count) in x], rtol)


def test_processes_find_the_estimate_of_one(pool):
    present, totals = torch.rand(NUM_ROWS, 3) < 0.8, torch.randint(1, 9, (NUM_ROWS, 1))
    present[22:] = False  # The last of four processes has no entry.
    offset = torch.randn(NUM_ROWS, 1).double()
    cases = {
        "joint": case(families.Poisson(), arguments={"offset": offset}, num_starts=2),
        "learnt scale": case(
            families.Gaussian(), arguments={"mask": present}, drawn_from=families.Gaussian(0.5)
        ),
        "learnt size": case(
            families.NegativeBinomial(),
            EVIDENCE,
            drawn_from=families.NegativeBinomial(2.0),
            max_sweeps=3,
        ),
    }
    check_cases(pool, cases, (4,))
    by_row = case(families.Binomial(totals), EVIDENCE, max_sweeps=3)
    check_cases(pool, {"by row": by_row}, (3,))


@pytest.mark.slow
def test_single_precision(pool):
    cases = {
        "joint": case(families.Poisson(), dtype=torch.float32),
        "evidence": case(families.Bernoulli(), EVIDENCE, dtype=torch.float32),
    }
    check_cases(pool, cases, (4,), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [None, EVIDENCE, pef.LaplaceEvidence(order=2)], ids=str)
@pytest.mark.parametrize("family", ON_THE_REAL_LINE, ids=name_of)
def test_every_family(family, loss, pool):
    # Under a wide prior the second order runs away, and its rounding grows with it.
    scale = 0.3 if loss is not None and loss.order == 2 else "weak"
    check_cases(pool, {"family": case(family, loss, loading_scale=scale, exact=True)}, COUNTS)


@pytest.mark.slow
def test_at_rest(pool):
    """Rounding grows from sweep to sweep, but the end is the same."""
    cases = {
        "joint": case(families.Poisson(), tol=1e-13, max_sweeps=500),
        "evidence": case(families.Bernoulli(), EVIDENCE, tol=1e-13, max_sweeps=500),
        "learnt": case(
            families.NegativeBinomial(),
            EVIDENCE,
            drawn_from=families.NegativeBinomial(2.0),
            tol=1e-13,
            max_sweeps=500,
        ),
    }
    alone = {name: fitted(*x[:4], **x[4])["objectives"][-1] for name, x in cases.items()}
    for answer in pool.run(fit_cases, cases, COUNTS):
        for (name, _), found in answer.items():
            assert found["objectives"][-1] == pytest.approx(alone[name], rel=1e-10)


LEARNT = [
    (families.NegativeBinomial(), families.NegativeBinomial(2.0)),
    (families.Gamma("shared"), families.Gamma(2.0)),
    (families.Ordinal(4), families.Ordinal(4, [-1.0, 0.0, 1.0])),
    (families.Gaussian(), families.Gaussian(0.5)),
]


@pytest.mark.slow
@pytest.mark.parametrize("loss", [None, EVIDENCE], ids=str)
@pytest.mark.parametrize(("family", "drawn_from"), LEARNT, ids=name_of)
def test_learnt_parameters(family, drawn_from, loss, pool):
    cases = {"family": case(family, loss, drawn_from=drawn_from, num_starts=1, exact=True)}
    check_cases(pool, cases, COUNTS)


@pytest.mark.slow
def test_starts_with_learnt_parameters_go_side_by_side(pool):
    learnt, law = families.NegativeBinomial(), families.NegativeBinomial(2.0)
    cases = {"family": case(learnt, drawn_from=law, num_starts=3, exact=True)}
    check_cases(pool, cases, COUNTS)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [None, EVIDENCE], ids=str)
def test_levels_and_mixed_columns(loss, pool):
    mixed = families.Columns([(slice(0, 1), families.Gaussian(1.0)), ([1, 2], families.Poisson())])
    cases = {
        "levels": case(families.Categorical(3), loss, exact=True),
        "mixed": case(mixed, loss, exact=True),
    }
    check_cases(pool, cases, COUNTS)


@pytest.mark.parametrize(
    ("change", "settings", "own", "others"),
    [
        ("value", {}, "ValueError: y must be in the support", "process 1 of 4 has stopped with"),
        ("columns", {}, "got 4 as num_features in process 0 and 5", "as num_features in process 0"),
        ("limit", {"tol": 1e-14}, "got 2000 as max_sweeps in process 0", "and 2 in process 1"),
    ],
)
def test_an_error_in_one_process_is_an_error_in_all(change, settings, own, others, pool):
    y = torch.poisson(torch.ones(40, 4)).double()
    answers = pool.run(message_of_bad_fit, y, change, settings)
    kinds = {kind for kind, _ in answers[:1] + answers[2:]}
    assert kinds == {"ProcessesError"}
    assert own in ": ".join(answers[1])
    assert all(others in text for _, text in answers[:1] + answers[2:])


@pytest.mark.parametrize("differ_in", ["what they do", "their coefficients", "what they add up"])
def test_processes_that_come_to_differ_end(differ_in, pool):
    for text in pool.run(message_of_other_sums, differ_in):
        assert text.endswith(f"they have come to differ in {differ_in}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("family", r"got Poisson\(\) as family in process 0 and Geometric\(\) in process 1"),
        ("prior", "got 1.0 as loading_scale in process 0 and 2.0 in process 1"),
        ("loss", "got None as loss in process 0 and LaplaceEvidence"),
        ("columns", "columns in the same order in every process, got 'b' where .* has 'a'"),
        ("categories", "got 'b', 'c' in column 'hue' where the first process has 'a', 'b', 'c'"),
        ("covariates", "covariates must have the same columns .* got 'w' where .* has 'v'"),
        ("rows", "y must have at least one row, got none in any of the 4 processes"),
        ("width", r"y must have shape \(\.\.\., rows, 3\), .* no rows, got \(0, 4\)"),
    ],
)
def test_what_differs_between_processes_has_a_name(change, words, pool):
    for text in pool.run(message_of_other_arguments, change):
        assert re.search(words, text)


def test_the_folder_of_a_checkpoint_is_wanted_in_the_first_process(pool, tmp_path):
    y = torch.poisson(torch.ones(40, 4)).double()
    answers = pool.run(with_own_folder, y, tmp_path)
    assert len(set(answers)) == 1
    assert (tmp_path / "0" / "fit.safetensors").exists()


def test_all_processes_end_together(pool):
    y = torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 4))).double()
    answers = pool.run(ends_of_fits, y)
    for name, reason in (
        ("callback", "the callback said so"),
        ("max_time", "max_time, 1e-09 seconds, is over"),
        ("ctrl-c", "it was interrupted by Ctrl-C"),
    ):
        agreed = [x[name] for x in answers]
        assert agreed[0]["reason"] == reason
        for other in agreed[1:]:
            assert torch.equal(other["coefficients"], agreed[0]["coefficients"])
            assert other["objectives"] == agreed[0]["objectives"]
            assert other["seconds"] == agreed[0]["seconds"]


def test_ctrl_c_on_the_way_to_a_start_leaves_the_guide_as_it_was(pool, tmp_path):
    y = torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 4))).double()
    answers = pool.run(interrupted_on_the_way_to_a_start, y, tmp_path / "fit.safetensors")
    assert answers == [("KeyboardInterrupt", True, False, True, 3)] * 4
    assert not list(tmp_path.iterdir())


def test_other_processes_go_on_from_a_checkpoint(pool, tmp_path):
    y = torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 4))).double()
    path = tmp_path / "fit.safetensors"
    alone = fitted(poisson_guide, y, {}, None, tol=1e-12)
    pool.run(with_checkpoint, y, path, 3, {"max_sweeps": 3})
    answers = pool.run(with_checkpoint, y, path, 2, {"tol": 1e-12})[:2]
    for found in answers:
        assert found["objectives"][-1] == pytest.approx(alone["objectives"][-1], rel=1e-11)
        assert torch.equal(found["coefficients"], answers[0]["coefficients"])


def test_a_damaged_checkpoint_is_an_error_in_all(pool, tmp_path):
    y, path = torch.ones(40, 4).double(), tmp_path / "fit.safetensors"
    path.write_bytes(b"not a checkpoint")
    first, *others = pool.run(message_of_bad_checkpoint, y, path)
    assert first[0].startswith("FileError: checkpoint must be a file of an earlier fit")
    for text, is_trained in others:
        assert text.startswith("ProcessesError: process 0 of 4 has stopped with FileError")
        assert not is_trained
    assert path.read_bytes() == b"not a checkpoint"


def test_latents_come_back_in_the_order_of_the_rows(pool, tmp_path):
    y = torch.poisson(torch.exp(torch.randn(40, 2) @ torch.randn(2, 4))).double()
    np.save(tmp_path / "y.npy", y.numpy())
    answers = pool.run(latents_in_order, y, tmp_path)
    alone = poisson_guide().fit(y, tol=1e-13).latents
    for gathered, on_disk in answers:
        assert torch.equal(gathered, answers[0][0])
        torch.testing.assert_close(on_disk, alone, rtol=0.0, atol=1e-8)
    written = torch.as_tensor(zarr.open_array(tmp_path / "latents", mode="r")[:])
    assert torch.equal(written, answers[0][0])


def test_svi_under_data_parallel_takes_the_steps_of_one_process(pool):
    rates = torch.exp(torch.randn(6, 20, 1) * torch.randn(4)).double()
    batches = list(torch.poisson(rates))
    alone = trained_by_svi(batches, lambda module: module)
    start = trained_by_svi(batches[:1], lambda module: module)
    for found in pool.run(trained_in_parallel, batches):
        assert found.keys() == alone.keys()
        for name, x in alone.items():
            torch.testing.assert_close(found[name], x, rtol=1e-9, atol=1e-12)
            assert not torch.equal(x, start[name])


def test_processes_must_be_there():
    guide, y = poisson_guide(), torch.ones(5, 4)
    with pytest.raises(ValueError, match=r"torch.distributed, which is not initialised: call"):
        guide.fit(y, processes="all")
    with pytest.raises(TypeError, match=r'processes must be None, "all" or a group.*got 3'):
        guide.fit(y, processes=3)
    assert issubclass(ProcessesError, RuntimeError)
