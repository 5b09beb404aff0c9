"""The prior of the paper's experiments, as arguments of a block."""

from __future__ import annotations

from typing import TypedDict

from pyro_expfam.deq.limits import check_size

WEIGHT_DECAY = 0.52
"""The weight decay of the loading in the paper's experiments, 10 (50 + 2) / 1000."""

LATENT_PRECISION = 0.1
r"""The paper's :math:`\lambda`."""


class PaperPrior(TypedDict):
    """The arguments of :class:`~pyro_expfam.ExpFamPCA` that :func:`paper_prior` gives."""

    latent_precision: float
    loading_scale: float


def paper_prior(num_rows: int) -> PaperPrior:
    r"""The prior of the paper's experiments, as arguments of :class:`~pyro_expfam.ExpFamPCA`.

    The paper minimises minus the log density of a batch, divided by twice its rows, by Adam with a
    weight decay of 0.52 on the loading. Adam adds the decay times ``W`` to the gradient. The
    minimum over a table of ``N`` rows is then the minimum of

    .. math::

        \frac{1}{2 N} \sum_{s=1}^N -\log p(y_s, z_s \mid W, b) + \frac{0.52}{2} \|W\|^2.

    Times ``2 N`` this is minus the log joint density under independent normal entries of the
    loading with precision ``1.04 N``: their standard deviation is :math:`(1.04 N)^{-1/2}`, 0.0048
    at the paper's 42,453 rows. The precision of the latents is 0.1.

    The prior grows with the table, as the likelihood does, so that it shrinks the linear
    predictors by the same part at any number of rows. A default block, with a standard deviation of
    1, hardly shrinks them in a large table. What counts is the product of the two precisions, not
    each of them: the minimum over all ``W`` and ``z`` of one product is a penalty
    :math:`\sqrt{0.1 \cdot 1.04 N} \, \|Z W^\top\|_*`, the sum of singular values (Srebro, Rennie
    and Jaakkola, 2004).

    The intercept keeps the prior of the block. The text of the paper speaks of a prior over ``W``
    and ``B``; its published code decays ``W`` alone. Under the precision ``1.04 N`` an intercept
    would be shrunk too: by half in a Gaussian table, and by more than four fifths in a table of
    bits, whatever the number of rows.

    Args:
        num_rows: rows ``N`` of the table.

    Raises:
        ValueError: ``num_rows`` is no whole number of at least 1.

    Source: appendix C of Tsuchida and Ong, and the weight decay of their published code.

    Example:
        >>> import pyro_expfam as pef
        >>> prior = pef.paper_prior(10_000)
        >>> f"{prior['loading_scale']:.4f}", prior["latent_precision"]
        ('0.0098', 0.1)
        >>> block = pef.ExpFamPCA(pef.families.Bernoulli(), 50, 2, **prior)
    """
    num_rows = check_size("num_rows", num_rows)
    precision = 2 * num_rows * WEIGHT_DECAY
    return {"latent_precision": LATENT_PRECISION, "loading_scale": precision**-0.5}
