"""Expanding, reshaping, masking and copying laws."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from law_cases import EXPANDS, SHAPE_TYPES, WITHOUT_ENTROPY, Case, each_law, each_with_entropy
from pyro.distributions.util import deep_to, detach, scale_and_mask
from quick_cases import in_turn


def assert_same_law(small: Any, large: Any) -> None:
    y = small.sample()
    torch.testing.assert_close(small.log_prob(y).expand(large.batch_shape), large.log_prob(y))
    y = large.sample()
    assert y.shape == large.batch_shape
    torch.testing.assert_close(small.log_prob(y), large.log_prob(y))
    torch.testing.assert_close(small.mean.expand(large.batch_shape), large.mean)
    torch.testing.assert_close(small.variance.expand(large.batch_shape), large.variance)


@pytest.mark.parametrize(("added", "shape_type"), in_turn([(), (2,), (2, 3)], SHAPE_TYPES))
@pytest.mark.parametrize("expand", EXPANDS.values(), ids=EXPANDS.keys())
@each_law
def test_expand_adds_dimensions(
    case: Case, added: tuple[int, ...], shape_type: type, expand: Callable[..., Any]
) -> None:
    small = case(3)
    large = expand(small, shape_type((*added, 3)))
    assert large.batch_shape == (*added, 3)
    assert_same_law(small, large)
    assert small.expand_by(shape_type(added)).batch_shape == (*added, 3)


@pytest.mark.parametrize("expand", EXPANDS.values(), ids=EXPANDS.keys())
@each_law
def test_expand_stretches_dimensions_of_size_one(case: Case, expand: Callable[..., Any]) -> None:
    small = case(2, 1, 3)
    assert_same_law(small, expand(small, torch.Size((2, 5, 3))))


@each_law
def test_expanded_draws_are_independent(case: Case) -> None:
    y = case(3).expand((400, 3)).sample()
    assert (y.std(0) > 0).all()
    assert (case(3).expand((400, 3)).sample() != y).any()


@pytest.mark.parametrize("expand", EXPANDS.values(), ids=EXPANDS.keys())
@pytest.mark.parametrize("shapes", [[(2, 1), (2, 3)], [(2, 1, 1), (2, 1, 4), (2, 5, 4)]], ids=str)
@each_law
def test_expand_again(
    case: Case, shapes: list[tuple[int, ...]], expand: Callable[..., Any]
) -> None:
    law: Any = case(3)
    for shape in shapes:
        large = expand(law, (*shape, 3))
        assert large.batch_shape == (*shape, 3)
        assert_same_law(law, large)
        law = large


@pytest.mark.parametrize("expand", EXPANDS.values(), ids=EXPANDS.keys())
@pytest.mark.parametrize(
    ("first", "then"), [((2, 1), (4, 3)), ((2, 4), (2, 2, 1)), ((1, 2, 1), (2, 1))], ids=str
)
@each_law
def test_expand_refuses_to_shrink(
    case: Case, first: tuple[int, ...], then: tuple[int, ...], expand: Callable[..., Any]
) -> None:
    large = expand(case(3), (*first, 3))
    with pytest.raises((RuntimeError, ValueError)):
        large.expand((*then, 3))


@each_law
def test_expand_keeps_class_validation_and_memory(case: Case) -> None:
    for validate in (True, False):
        law = case.at(torch.randn(1, 3), validate_args=validate)
        large = law.expand((1000, 3))
        assert type(large) is type(law)
        assert large.family is law.family
        assert large._validate_args is validate
        assert large._eta.data_ptr() == law._eta.data_ptr()
        assert set(vars(large)) == set(vars(law))


@each_law
def test_to_event_moves_dimensions(case: Case) -> None:
    law = case(5, 4, 3)
    assert law.to_event(0) is law
    for count in range(1, 4):
        moved = law.expand_by((2,)).to_event(count)
        assert moved.batch_shape == (2, 5, 4, 3)[: 4 - count]
        assert moved.event_shape == (2, 5, 4, 3)[4 - count :]
        y = moved.sample()
        expected = law.log_prob(y).flatten(4 - count).sum(-1)
        torch.testing.assert_close(moved.log_prob(y), expected)
        assert moved.to_event(-count).batch_shape == (2, 5, 4, 3)
    with pytest.raises(ValueError, match="reinterpreted_batch_ndims"):
        law.to_event(4)


@each_with_entropy
def test_entropy_of_an_event_is_the_sum(case: Case) -> None:
    law = case(5, 4, 3)
    assert law.entropy().shape == (5, 4, 3)
    torch.testing.assert_close(law.to_event(2).entropy(), law.entropy().sum((-1, -2)))


@pytest.mark.parametrize("event_dim", [0, 1])
@each_law
def test_mask_removes_log_probs(case: Case, event_dim: int) -> None:
    law = case(4, 3).to_event(event_dim)
    mask = torch.rand(law.batch_shape) < 0.5
    masked = law.mask(mask)
    y = law.sample()
    expected = scale_and_mask(law.log_prob(y), mask=mask)
    torch.testing.assert_close(masked.log_prob(y), expected)
    assert masked.batch_shape == law.batch_shape
    assert masked.event_shape == law.event_shape
    torch.testing.assert_close(masked.mean, law.mean)
    torch.testing.assert_close(masked.variance, law.variance)
    parts, kept = masked.score_parts(y), law.score_parts(y).scale_and_mask(mask=mask)
    for part, expected_part in zip(parts, kept, strict=True):
        torch.testing.assert_close(torch.as_tensor(part), torch.as_tensor(expected_part))
    assert (law.mask(False).log_prob(y) == 0).all()


@each_law
def test_mask_broadcasts(case: Case) -> None:
    masked = case(3).to_event(1).mask(torch.tensor([[True], [False]]))
    assert masked.batch_shape == (2, 1)
    assert masked.log_prob(masked.sample()).shape == (2, 1)


@each_law
def test_pickled_and_copied_laws_are_the_same(case: Case) -> None:
    law = case(4, 3)
    buffer = io.BytesIO()
    torch.save(law, buffer, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=False)
    y = law.sample()
    for copied in (saved, pickle.loads(pickle.dumps(law)), copy.deepcopy(law), copy.copy(law)):
        assert type(copied) is type(law)
        assert copied.batch_shape == law.batch_shape
        assert (copied.log_prob(y) == law.log_prob(y)).all()


@each_law
def test_deep_to_and_detach_map_the_tensors(case: Case) -> None:
    law = case.at(torch.randn(3, requires_grad=True).exp())
    y = law.sample()
    moved = deep_to(law, torch.float64)
    assert moved._eta.dtype == torch.float64
    assert moved.log_prob(y.double()).dtype == torch.float64
    assert not detach(law).log_prob(y).requires_grad
    torch.testing.assert_close(detach(law).log_prob(y), law.log_prob(y).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_law
def test_everything_keeps_the_dtype(case: Case, dtype: torch.dtype) -> None:
    law = case(3, dtype=dtype)
    y = law.sample()
    results = [y, law(), law.log_prob(y), law.mean, law.variance, law.stddev]
    if not case.name.startswith(WITHOUT_ENTROPY):
        results.append(law.entropy())
    if law.has_rsample:
        results.append(law.cdf(y))
    if law.has_rsample and "Gamma" not in case.name:
        results.append(law.icdf(torch.rand(3, dtype=dtype)))
    assert {result.dtype for result in results} == {dtype}
    torch.testing.assert_close(
        deep_to(law, torch.float64).log_prob(y.double()).to(dtype), law.log_prob(y)
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_law
def test_a_law_on_the_gpu_is_that_on_the_cpu(case: Case) -> None:
    law = case(4, 3, dtype=torch.float32)
    moved = case.given(law._eta.cuda())
    y = moved.sample()
    assert y.is_cuda
    torch.testing.assert_close(moved.log_prob(y).cpu(), law.log_prob(y.cpu()))
    torch.testing.assert_close(moved.mean.cpu(), law.mean)
    if law.has_rsample:
        assert moved.rsample().is_cuda


@pytest.mark.parametrize("value", [1, 0.5, True], ids=str)
@each_law
def test_a_number_is_a_parameter_of_empty_shape(case: Case, value: float) -> None:
    law = case.given(value)
    tensor = case.given(torch.tensor(float(value)))
    y = law.sample()
    assert law._eta.dtype == torch.get_default_dtype()
    assert law.batch_shape == tensor.batch_shape
    assert (law.log_prob(y) == tensor.log_prob(y)).all()


@each_law
def test_observations_may_be_integers(case: Case) -> None:
    law = case(4, 3, dtype=torch.float32)
    y = torch.full((4, 3), 3.0 if case.name == "Pareto" else 1.0)
    if case.name == "Beta":
        pytest.skip("no whole number is between 0 and 1")
    for integers in (y.long(), y.int(), *([y.bool()] if case.name != "Pareto" else [])):
        assert (law.log_prob(integers) == law.log_prob(y)).all()
        assert law.log_prob(integers).dtype == torch.float32
