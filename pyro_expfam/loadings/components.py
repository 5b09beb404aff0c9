"""Orthonormal components of a loading, and the latents in their basis."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Components(NamedTuple):
    r"""The linear map :math:`\eta = W z + b` as :math:`\eta = C^\top s + b` with orthonormal rows.

    Attributes:
        rows: the components ``C``, ``(l, d)``, orthonormal; for a Gaussian family in units of the
            table.
        to_scores: the matrix ``A`` with :math:`s = A z`, ``(l, l)``.
        from_scores: its inverse.
        variances: the prior variances of the scores, ``(l,)``.
    """

    rows: Tensor
    to_scores: Tensor
    from_scores: Tensor
    variances: Tensor

    def of_rank(self, order: Tensor) -> Components:
        """The same components in another order."""
        return Components(
            self.rows[order],
            self.to_scores[order],
            self.from_scores[:, order],
            self.variances[order],
        )


def orthonormal_components(W: Tensor, precision: Tensor) -> Components:
    r"""The components of a loading, by falling prior variance of their scores.

    With the singular values :math:`W / \sqrt{\lambda} = U S V^\top` the components are the columns
    of ``U``, and the scores are :math:`s = \sqrt{\lambda} S V^\top z`, with independent priors of
    variances :math:`S^2`. The largest entry of every component is positive.

    Args:
        W: the loading, ``(d, l)``.
        precision: the precision of the latents.
    """
    root = precision.sqrt()
    U, S, Vt = torch.linalg.svd(W / root, full_matrices=False)
    largest = U.abs().argmax(0)
    signs = torch.where(U.gather(0, largest[None])[0] < 0, -1.0, 1.0).to(U)
    to_scores = root * (signs * S)[:, None] * Vt
    # A loading of lower rank has directions that the table says nothing of.
    inverse = torch.where(torch.finfo(S.dtype).eps * S[0] < S, 1 / S, 0.0)
    return Components((signs * U).mT, to_scores, Vt.mT * (signs * inverse) / root, S.square())
