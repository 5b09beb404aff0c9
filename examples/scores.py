"""Scores of models: predictions of hidden pixels from models, and of digits from latents."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

import pyro_expfam as pef

TOTAL_COUNT = 16
NEIGHBOURS = 5


class Split(NamedTuple):
    """Training rows, test rows, and which entries of the test rows are observed."""

    train: Tensor
    test: Tensor
    observed: Tensor
    train_digits: NDArray[Any]
    test_digits: NDArray[Any]


def split_digits(test_rows: int, hidden: float, seed: int) -> Split:
    """The digits of scikit-learn, with a share of the entries of the test rows hidden."""
    images, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    test, train = order[:test_rows], order[test_rows:]
    observed = rng.random((test_rows, images.shape[1])) >= hidden
    counts = torch.tensor(images, dtype=torch.float32)
    return Split(counts[train], counts[test], torch.tensor(observed), digits[train], digits[test])


def held_out_score(eta: Tensor, split: Split) -> float:
    """Mean log predictive probability of a hidden entry under draws ``(S, N, d)`` of ``eta``."""
    hidden = ~split.observed
    law = pef.distributions.Binomial(eta[:, hidden], total_count=TOTAL_COUNT)
    predictive = law.log_prob(split.test[hidden]).logsumexp(0) - np.log(len(eta))
    return float(predictive.mean())


def independent_logits(y: Tensor) -> Tensor:
    """Natural parameters ``(d,)`` of a model in which pixels are independent."""
    return ((y.sum(0) + 0.5) / (TOTAL_COUNT * len(y) + 1)).logit()


def pca_score(pca: PCA, split: Split) -> float:
    """The same score under probabilistic PCA, its normal law rounded to counts from 0 to 16."""
    covariance, scores = pca.get_covariance(), []
    for y, seen in zip(split.test.double().numpy(), split.observed.numpy(), strict=True):
        gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, ~seen)]).T
        mean = pca.mean_[~seen] + gain @ (y[seen] - pca.mean_[seen])
        variance = covariance.diagonal()[~seen] - (gain * covariance[np.ix_(~seen, seen)]).sum(1)
        scores.append(_rounded_normal_log_prob(y[~seen], mean, np.sqrt(variance)))
    return float(np.concatenate(scores).mean())


def _rounded_normal_log_prob(y: NDArray[Any], mean: NDArray[Any], sd: NDArray[Any]) -> NDArray[Any]:
    """Log probability that a normal rounds to ``y``; values beyond the ends count as the ends."""
    upper = np.where(y == TOTAL_COUNT, np.inf, (y + 0.5 - mean) / sd)
    lower = np.where(y == 0, -np.inf, (y - 0.5 - mean) / sd)
    # In the lower tail, where differences of probabilities keep their digits.
    flip = lower > 0
    lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    ends = np.stack([norm.logcdf(upper), norm.logcdf(lower)])
    signs = np.array([[1.0], [-1.0]])
    return np.asarray(logsumexp(ends, axis=0, b=signs))


def neighbour_accuracy(train: Any, test: Any, split: Split) -> float:
    """Share of test digits that equal the majority digit of their nearest training rows."""
    classifier = KNeighborsClassifier(NEIGHBOURS).fit(np.asarray(train), split.train_digits)
    return float(classifier.score(np.asarray(test), split.test_digits))
