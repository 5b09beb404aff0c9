"""The law of latents that are the root is Pyro's point mass."""

from __future__ import annotations

import copy
import pickle

import pyro.distributions as dist
import torch

from pyro_expfam.guides.point_mass import PointMass


def test_it_is_a_delta() -> None:
    v = torch.randn(5, 3)
    law, plain = PointMass(v), dist.Delta(v, event_dim=1)
    assert isinstance(law, dist.Delta)
    for x in (law(), v.clone(), v + 1.0, v.index_fill(1, torch.tensor([0]), 9.0)):
        assert torch.equal(law.log_prob(x), plain.log_prob(x))
        for found, wanted in zip(law.score_parts(x), plain.score_parts(x), strict=True):
            assert torch.equal(torch.as_tensor(found), torch.as_tensor(wanted))
    assert law.batch_shape == plain.batch_shape
    assert law.event_shape == plain.event_shape
    assert law((4,)).shape == (4, 5, 3)
    assert torch.equal(law.mean, v)


def test_it_expands_like_a_delta() -> None:
    law = PointMass(torch.randn(1, 3))
    wide = law.expand((6,))
    assert wide.batch_shape == (6,)
    assert torch.equal(wide(), law().expand(6, 3))
    assert torch.equal(wide.log_prob(wide()), torch.zeros(6))
    assert law.expand((1,)) is law


def test_gradients_reach_the_vectors() -> None:
    v = torch.randn(5, 3, requires_grad=True)
    PointMass(v)().square().sum().backward()
    torch.testing.assert_close(v.grad, 2 * v.detach())


def test_copies() -> None:
    law = PointMass(torch.randn(5, 3))
    for other in (copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        assert torch.equal(other(), law())
        assert torch.equal(other.log_prob(other()), torch.zeros(5))
