"""Tables as people have them: kinds of arrays, frames, and what is masked, which nobody reads."""

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from quick_cases import in_turn

import pyro_expfam as pef
from pyro_expfam.deq.observations import check_observations

F = pef.families
LIKE = torch.zeros((), dtype=torch.float64)


def counts(num_rows=12, num_features=5):
    return np.random.default_rng(0).poisson(1.5, (num_rows, num_features))


def checked(y, num_features=5, **entries):
    return check_observations(F.Poisson(), y, num_features, LIKE, **entries)


ARRAYS = {
    "rows reversed": lambda y: y[::-1],
    "columns reversed": lambda y: y[:, ::-1],
    "big-endian integers": lambda y: y.astype(">i4"),
    "big-endian floats": lambda y: y.astype(">f8"),
    "long double": lambda y: y.astype(np.longdouble),
    "half precision": lambda y: y.astype(np.float16),
    "unsigned": lambda y: y.astype(np.uint16),
    "bytes": lambda y: y.astype(np.int8),
    "read-only": lambda y: np.broadcast_to(y[:1], y.shape),
    "every other": lambda y: np.repeat(y, 2, 0)[::2],
    "Fortran": np.asfortranarray,
    "objects": lambda y: y.astype(object),
    "frame": pd.DataFrame,
    "nullable frame": lambda y: pd.DataFrame(y).astype("Int64"),
    "mixed frame": lambda y: pd.DataFrame(y).astype({0: "Int16", 1: "float32", 2: "Float64"}),
    "categories": lambda y: pd.DataFrame(y).astype({1: "category"}),
    "lists": lambda y: y.tolist(),
    "list of tensors": lambda y: [torch.tensor(row) for row in y],
}
TENSORS = [torch.float16, torch.bfloat16, torch.uint8, torch.uint16, torch.int64, torch.float64]


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_kind_serve(kind):
    y = ARRAYS[kind](counts())
    found = checked(y).y
    assert found.dtype == torch.float64
    np.testing.assert_array_equal(found.numpy(), np.array(y, dtype=float))


@pytest.mark.parametrize("kind", ARRAYS)
def test_offsets_and_weights_of_every_kind_serve(kind):
    y = counts()
    entries = ARRAYS[kind](y)
    found = checked(y, offset=entries, weights=entries)
    for tensor in (found.offset, found.weights):
        np.testing.assert_array_equal(tensor.numpy(), np.array(entries, dtype=float))


@pytest.mark.parametrize("dtype", TENSORS, ids=str)
def test_tensors_of_every_dtype_are_computed_in_that_of_the_model(dtype):
    y = torch.tensor(counts()).to(dtype)
    model = pef.ExpFamPCA(F.Poisson(), 5, 2)
    guide = pef.DEQMAPGuide(model)
    fit = guide.fit(y)
    assert fit.converged
    assert guide.loading.dtype == fit.latents.dtype == torch.float32
    torch.testing.assert_close(guide.latents(y), guide.latents(y.float()), rtol=0, atol=0)


def test_a_model_of_half_precision_is_refused():
    model = pef.ExpFamPCA(F.Poisson(), 5, 2).half()
    for call in (model, pef.DEQMAPGuide(model).fit):
        with pytest.raises(TypeError, match=r"must be float32 or float64, got .*float16: call its"):
            call(counts())


@pytest.mark.parametrize(
    "make",
    [
        lambda mask: mask,
        lambda mask: mask[::-1][::-1],
        lambda mask: mask.tolist(),
        lambda mask: mask.astype(object),
        torch.from_numpy,
        pd.DataFrame,
        lambda mask: pd.DataFrame(mask).astype("boolean"),
        lambda mask: pd.DataFrame(mask).astype({0: "boolean"}),
    ],
)
def test_masks_of_every_kind_serve(make):
    mask = counts() > 1
    found = checked(counts(), mask=make(mask)).mask
    np.testing.assert_array_equal(found.numpy(), mask)


# What is missing


def with_missing(kind):
    frame = pd.DataFrame(counts(), columns=list("abcde"))
    frame.index = [f"plot {k}" for k in range(len(frame))]
    frame = frame.astype({"nullable": "Int64", "floats": float, "objects": object}[kind])
    frame.loc["plot 3", "c"] = {"nullable": pd.NA, "floats": np.nan, "objects": None}[kind]
    frame.loc["plot 7", "a"] = pd.NA if kind != "floats" else np.nan
    return frame


@pytest.mark.parametrize("kind", ["nullable", "floats", "objects"])
def test_missing_entries_of_frames_are_refused_by_name_with_the_cure(kind):
    frame = with_missing(kind)
    message = (
        r"y must be finite; pass mask=frame.notna\(\) to mark missing entries, or missing='nan' to "
        r"the block; got nan at position \(3, 2\), row 'plot 3', column 'c' and 1 more such entries"
    )
    model = pef.ExpFamPCA(F.Poisson(), 5, 2)
    guide = pef.DEQMAPGuide(model)
    W, b = torch.randn(5, 2), torch.zeros(5)
    for call in (
        checked,
        model,
        guide,
        guide.fit,
        lambda y: pef.solve_latents(F.Poisson(), y, W, b),
        lambda y: pef.compare_latent_dims(F.Poisson(), y, [1], num_folds=2),
    ):
        with pytest.raises(ValueError, match=message):
            call(frame)


@pytest.mark.parametrize("kind", ["nullable", "floats", "objects"])
def test_the_cure_cures(kind):
    frame = with_missing(kind)
    mask = frame.notna()
    whole = pd.DataFrame(counts(), columns=frame.columns, index=frame.index)
    guide = pef.DEQMAPGuide(pef.ExpFamPCA(F.Poisson(), 5, 2))
    assert guide.fit(frame, mask=mask).converged
    found, wanted = guide.latents(frame, mask=mask), guide.latents(whole, mask=mask.to_numpy())
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_missing_truth_value_is_refused():
    mask = pd.DataFrame(counts() > 1).astype("boolean")
    mask.iloc[2, 1] = pd.NA
    with pytest.raises(ValueError, match=r"mask must be True or False .* at position \(2, 1\)"):
        checked(counts(), mask=mask)


def test_a_column_of_text_is_named():
    frame = pd.DataFrame(counts(), columns=list("abcde")).assign(d="oak")
    with pytest.raises(
        TypeError,
        match=r"y must hold numbers; column 'd' holds texts \(1 different, such as 'oak'\): ",
    ):
        checked(frame)


@pytest.mark.parametrize("name", ["offset", "weights"])
def test_entries_that_are_not_finite_are_named_by_row_and_column(name):
    frame = pd.DataFrame(counts(), columns=list("abcde"))
    entries = pd.DataFrame(np.ones((12, 5)))
    entries.iloc[4, 3] = -np.inf
    with pytest.raises(ValueError, match=rf"{name} must be .*\(4, 3\), row 4, column 'd'$"):
        checked(frame, **{name: entries})
    with pytest.raises(ValueError, match=rf"{name} must be .*\(4, 0\), row 4$"):
        checked(frame, **{name: entries[[3]]})


def test_ragged_rows_are_refused_by_name():
    with pytest.raises(ValueError, match=r"y must be a table of numbers, got no array: .*inh"):
        checked([[1, 2, 3, 4, 5], [1, 2]])


@pytest.mark.parametrize("name", ["mask", "offset", "weights"])
def test_frames_in_another_order_are_refused(name):
    frame = pd.DataFrame(counts(), columns=list("abcde"), index=[f"r{k}" for k in range(12)])
    entries = frame > 0 if name == "mask" else frame.astype(float)
    shuffled = entries.sample(frac=1.0, random_state=1)
    with pytest.raises(ValueError, match=f"{name} must have the rows of y in the same order, got"):
        checked(frame, **{name: shuffled})
    with pytest.raises(ValueError, match=f"{name} must have the columns of y in the same order"):
        checked(frame, **{name: entries[list("bacde")]})
    with pytest.raises(ValueError, match=f"{name} must have the columns of y in the same order"):
        checked(frame, **{name: entries.iloc[0][::-1]})
    # Labels of another kind are no order.
    checked(frame, **{name: entries.reset_index(drop=True)})
    checked(frame, **{name: entries.iloc[0]})


# What is masked is never read


GARBAGE = [np.nan, np.inf, -np.inf, 1e300, -3.5]
SHAPES = [(40, 5), (40, 1), (1, 5)]
FAMILIES = [F.Poisson(), F.Bernoulli(), F.Gaussian(0.7), F.ContinuousBernoulli(), F.Binomial(4)]


def masked_table(family, garbage, shape, holes=True, has_all_columns=False):
    """A table with an offset and weights, and garbage wherever the mask is False."""
    torch.manual_seed(1)
    mask = torch.rand(40, 5) < 0.7
    mask[3], mask[5:9], mask[:, 1] = False, False, mask[:, 1] & has_all_columns
    y = family.sample(torch.randn(40, 5, dtype=torch.float64))
    offset = 0.3 * torch.randn(shape, dtype=torch.float64)
    weights = 0.5 + torch.rand(shape, dtype=torch.float64)
    if holes:
        covered = mask
        if shape[0] == 1:
            covered = covered.any(0, keepdim=True)
        if shape[1] == 1:
            covered = covered.any(1, keepdim=True)
        y[~mask] = garbage
        offset[~covered] = weights[~covered] = garbage
    return {"y": y, "offset": offset, "mask": mask, "weights": weights}


def new_guide():
    pyro.clear_param_store()
    return pef.DEQMAPGuide(pef.ExpFamPCA(F.Poisson(), 5, 2, intercept_scale=1.0).double())


def answers(family, table, W, b):
    """What every entrance makes of a table, by name."""
    inside = [table["y"], table["offset"], table["weights"]]
    for tensor in inside:
        tensor.requires_grad_(tensor is not inside[0] or isinstance(family, F.Gaussian))
    solution = pef.solve_latents(family, W=W, b=b, **table)
    evidence = pef.log_evidence(family, W=W, b=b, order=2, **table)
    grads = torch.autograd.grad(
        evidence.sum() + solution.value.sum(), [x for x in inside if x.requires_grad]
    )
    table = {name: x.detach() for name, x in table.items()}
    model = pef.ExpFamPCA(family, 5, 2).double()
    guide = pef.LaplaceGuide(model, global_guide=fixed_start)
    guide(**table)
    with torch.no_grad():
        guide.global_guide.loading.copy_(W)
        model.intercept.copy_(b)
    return {
        "latents": solution.value,
        "evidence": evidence,
        "gradients": torch.cat([x.flatten() for x in grads]),
        "guide": guide.latents(**table),
        "variances": guide.posterior(**table).variance,
        "guide's evidence": guide.log_evidence(**table),
        "block": model(**table),
    }


def fixed_start(model):
    return pef.guides.point_guide(model)


@pytest.mark.parametrize(("family", "shape"), in_turn(FAMILIES, SHAPES))
def test_what_is_masked_is_never_read(family, shape):
    W, b = torch.randn(5, 2).double(), torch.randn(5).double()
    state = torch.random.get_rng_state()
    expected = answers(family, masked_table(family, 0.0, shape, holes=False), W, b)
    for garbage in GARBAGE:
        torch.random.set_rng_state(state)
        found = answers(family, masked_table(family, garbage, shape), W, b)
        for name, value in expected.items():
            if name != "gradients":
                torch.testing.assert_close(found[name], value, msg=f"{name}, {garbage}")
        assert found["gradients"].isfinite().all()


@pytest.mark.parametrize(
    ("shape", "streamed", "loss"),
    in_turn(SHAPES, [False, True], [pef.LaplaceEvidence(order=2), None]),
)
def test_a_fit_never_reads_what_is_masked(shape, streamed, loss):
    def fitted(table):
        if not streamed:
            return new_guide().fit(**table, loss=loss)
        whole = {name: x.expand(40, -1) for name, x in table.items()}
        batches = [{name: x[k : k + 15] for name, x in whole.items()} for k in (0, 15, 30)]
        return new_guide().fit(batches, loss=loss)

    expected = fitted(masked_table(F.Poisson(), 0.0, shape, holes=False))
    for garbage in (np.nan, 1e300):
        fit = fitted(masked_table(F.Poisson(), garbage, shape))
        assert fit.converged
        assert fit.objective == pytest.approx(expected.objective, rel=1e-12)


def test_a_comparison_never_reads_what_is_masked_and_takes_frames():
    def table_of(garbage, holes):
        return masked_table(F.Poisson(), garbage, (40, 5), holes, has_all_columns=True)

    table = table_of(0.0, holes=False)
    arguments = {name: table[name] for name in ("y", "offset", "mask")}
    expected = pef.compare_latent_dims(F.Poisson(), dims=[1], num_folds=2, **arguments).rows[0]
    for garbage in (np.nan, 1e300):
        table = table_of(garbage, holes=True)
        frames = {name: pd.DataFrame(table[name].numpy()) for name in ("y", "offset", "mask")}
        frames["mask"] = frames["mask"].astype("boolean")
        row = pef.compare_latent_dims(F.Poisson(), dims=[1], num_folds=2, **frames).rows[0]
        assert row.held_out == pytest.approx(expected.held_out, rel=1e-9)
        assert row.evidence == pytest.approx(expected.evidence, rel=1e-9)


def test_svi_never_reads_what_is_masked():
    for garbage in (np.nan, 1e300):
        table = masked_table(F.Poisson(), garbage, (40, 1))
        model = pef.ExpFamPCA(F.Poisson(), 5, 2).double()
        guide = pef.DEQMAPGuide(model)
        svi = SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO())
        losses = [svi.step(**table) for _ in range(3)]
        assert np.isfinite(losses).all()
        assert guide.loading.isfinite().all()


def test_an_entry_that_covers_an_observed_one_is_read():
    y, mask = counts(), np.ones((12, 5), dtype=bool)
    mask[2, :4] = False
    offset = np.zeros((12, 1))
    offset[2] = np.nan
    with pytest.raises(ValueError, match=r"offset must be finite; got nan at position \(2, 0\)"):
        checked(y, offset=offset, mask=mask)
    mask[2] = False
    assert checked(y, offset=offset, mask=mask).offset.isfinite().all()


SQUARE = pd.DataFrame(counts(5, 5), index=list("vwxyz"), columns=list("abcde"))


@pytest.mark.parametrize("name", ["offset", "weights"])
@pytest.mark.parametrize("frame", [SQUARE, SQUARE.reset_index(drop=True)], ids=["named", "rows"])
def test_a_series_with_the_labels_of_the_rows_is_a_number_per_row(name, frame):
    series = pd.Series(np.arange(1.0, 6.0), index=frame.index)
    found = getattr(checked(frame, **{name: series}), name)
    np.testing.assert_array_equal(found.expand(5, 5), np.repeat(series.values[:, None], 5, 1))


def test_a_mask_and_an_offset_of_more_rows_than_columns_go_by_their_labels():
    frame = pd.DataFrame(counts(12, 5), index=[f"row {k}" for k in range(12)])
    found = checked(frame, offset=np.log1p(frame.sum(axis=1)), mask=frame.sum(axis=1) > 3)
    assert found.offset.shape == found.mask.shape == (12, 1)


def test_a_series_with_the_labels_of_the_columns_is_a_number_per_column():
    series = pd.Series(np.arange(1.0, 6.0), index=SQUARE.columns)
    found = checked(SQUARE, offset=series).offset
    np.testing.assert_array_equal(found.expand(5, 5), np.repeat(series.values[None], 5, 0))


@pytest.mark.parametrize(
    ("frame", "index", "message"),
    [
        (pd.DataFrame(counts(5, 5)), range(5), r"offset must .* both .* offset.to_frame\(\)"),
        (SQUARE, range(5), r"offset must .* neither .* offset.to_frame\(\)"),
        (SQUARE, list("zyxwv"), "offset must have the rows of y in the same order"),
        (SQUARE, list("edcba"), "offset must have the columns of y in the same order"),
    ],
)
def test_a_series_that_may_be_of_rows_or_columns_is_refused(frame, index, message):
    with pytest.raises(ValueError, match=message):
        checked(frame, offset=pd.Series(np.ones(5), index=index))


def test_a_table_in_place_of_an_offset_is_refused():
    y = counts()
    with pytest.raises(ValueError, match=r"offset must be .* got y itself: a guide takes"):
        checked(y, offset=y)


@pytest.mark.parametrize(
    ("family", "entries", "words"),
    [
        (F.Poisson(), [[0.5, 1.0]], "counts 0, 1, 2, …; got 0.5"),
        (F.Bernoulli(), [[1.0, 2.0]], r"0 or 1 \(recode 1 and 2 to 0 and 1\); got 2"),
        (F.Bernoulli(), [[0.0, 0.5]], "0 or 1; got 0.5"),
        (F.ContinuousBernoulli(), [[0.2, 35.0]], r"between 0 and 1 \(divide percentages by 100\)"),
        (F.Binomial(4), [[1, 5]], r"from 0 to 4 \(recode answers 1 to 5 to 0 to 4\); got 5"),
    ],
    ids=str,
)
def test_a_support_is_said_in_words_with_a_hint(family, entries, words):
    with pytest.raises(ValueError, match=f"y must be in the support of .*{words}"):
        check_observations(family, entries, 2, LIKE)


def test_a_transposed_table_is_recognised():
    with pytest.raises(ValueError, match=r"got \(5, 12\): is the table transposed\? Pass y.T"):
        checked(counts().T)
