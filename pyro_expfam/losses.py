"""Losses for :class:`pyro.infer.SVI` in which the latents of blocks are integrated out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_expfam.evidence import mode_log_density, second_order_term
from pyro_expfam.evidence.adaptive import Nodes, adaptive_evidence, log_joint_density
from pyro_expfam.evidence.expansion import without_gradient_at_saddles
from pyro_expfam.evidence.row_evidence import check_order
from pyro_expfam.models.annotations import answer, is_enumerated


class LaplaceEvidence(Trace_ELBO):
    r"""Minus the log evidence of the tables and the log priors: a loss for ``SVI``.

    The loss is :math:`-\sum_s \log p(y_s \mid W, b) - \log p(W, b)` with the latents of every
    block integrated out, as in :func:`~pyro_expfam.log_evidence`. It is exact for Gaussian
    observations, deterministic, and has exact gradients. Joint MAP estimation, by ``Trace_ELBO``
    with the same guide, leaves out the determinant of the information. Without the determinant,
    latents shrink and loadings grow under a weak prior of the loading.

    Begin with the first order. It makes loadings too large where bits are rare; the second order
    does not, if there are many features. Do not train on the second order with bits of ten
    features or fewer. The second order is an expansion: it has no bound at loadings so large that
    it no longer holds, and training goes there. On counts either order will do.
    :func:`~pyro_expfam.check` compares both orders with importance sampling.

    The loss treats all other latents, which the guide estimates by points by default, as
    :class:`~pyro.infer.Trace_ELBO` does. With a variational guide of the loading it is the bound
    of the evidence over loadings. Minibatches, masks, offsets and several blocks need nothing else.
    Another likelihood that uses the latents, such as a supervised head, is a part of the evidence.
    A guide with ``condition_on="table"`` leaves it out of the posterior, and the loss is then no
    evidence of the whole model.

    Args:
        order: 1 for the Laplace approximation, 2 for the second order.
        nodes: with up to 3 latents, the nodes along each of adaptive Gauss-Hermite quadrature in
            place of an expansion; 7 to 15 are enough. With any number of latents,
            :class:`~pyro_expfam.evidence.Draws` for importance sampling. Tables of few columns,
            such as a questionnaire of five items, want it: there the expansions have their optimum
            elsewhere.
        *args: as for :class:`~pyro.infer.Trace_ELBO`.
        **kwargs: as for :class:`~pyro.infer.Trace_ELBO`.

    Raises:
        ValueError: if ``order`` is neither 1 nor 2, or ``nodes`` is out of range. At the first
            step, if the guide finds no latents of a block, or ``nodes`` are given for more than 3
            latents.

    Source: appendix D of the paper; Tierney and Kadane (1986); Shun and McCullagh (1995) for the
    second order.

    Example:
        >>> import torch
        >>> import pyro_expfam as pef
        >>> from pyro.infer import SVI
        >>> from pyro.optim import Adam
        >>> y = torch.bernoulli(torch.full((20, 6), 0.5))
        >>> model = pef.ExpFamPCA(pef.families.Bernoulli(), num_features=6, latent_dim=2)
        >>> guide = pef.DEQMAPGuide(model)
        >>> svi = SVI(model, guide, Adam({"lr": 1e-2}), pef.LaplaceEvidence(order=1))
        >>> losses = [svi.step(y) for _ in range(3)]
    """

    def __init__(
        self, *args: Any, order: int = 1, nodes: Nodes | None = None, **kwargs: Any
    ) -> None:
        check_order(order, nodes)
        super().__init__(*args, **kwargs)
        self.order = order
        self.nodes = nodes

    def __repr__(self) -> str:
        """The order, or the number of nodes."""
        what = f"order={self.order}" if self.nodes is None else f"nodes={self.nodes}"
        return f"{type(self).__name__}({what})"

    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        at_mode = _AtMode(self.order, self.nodes)
        traces: tuple[Trace, Trace] = super()._get_trace(model, at_mode(guide), args, kwargs)
        if not at_mode.num_answered:
            sites = sorted(name for name, _ in traces[1].iter_stochastic_nodes())
            raise ValueError(
                "guide must find the latents of a block, as pyro_expfam.DEQMAPGuide does; got one "
                f"with the sites {sites}"
            )
        _refuse_enumerated(traces[0])
        return traces


def _refuse_enumerated(trace: Trace) -> None:
    """An error for a discrete site that would be drawn where it has to be summed over."""
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and is_enumerated(site) and "_enumerate_dim" not in site:
            raise NotImplementedError(
                f"LaplaceEvidence does not sum over discrete sites, got {name!r} to enumerate: "
                "train with pyro.infer.TraceEnum_ELBO, or with guide.fit(..., loss=None)"
            )


def at_mode(guide: Callable[..., Any]) -> Callable[..., Any]:
    """A guide with the latents of blocks at their mode, as a point mass."""
    found: Callable[..., Any] = _AtMode(0)(guide)
    return found


class _AtMode(Messenger):
    """Puts the latents of blocks at the root, with the log density of the posterior there.

    The density is the density of the Laplace posterior. For the second order its term is taken
    off. For quadrature it is the log joint density at the root minus the evidence. The log
    densities of model and guide at the mode then differ by the evidence. Order 0 is a point mass.
    """

    def __init__(self, order: int, nodes: Nodes | None = None) -> None:
        super().__init__()
        self.order, self.nodes = order, nodes
        self.num_answered = 0

    def _pyro_sample(self, msg: Any) -> None:
        found = answer(msg)
        if found is None:
            return
        self.num_answered += 1
        problem, root = found.problem, found.root
        # Latents of several sites that belong together have their density at the first site.
        log_density: float | Tensor = 0.0
        mean = found.posterior.mean
        if problem is not None and self.nodes is not None:
            # Without the determinant of the information, which is singular near a saddle.
            mean = without_gradient_at_saddles(problem, mean)
            joint = log_joint_density(problem, mean)
            log_density = joint - adaptive_evidence(problem, root, self.nodes)
        elif problem is not None and self.order > 0:
            log_density = mode_log_density(problem, root)
        if problem is not None and self.order == 2:
            log_density = log_density - second_order_term(problem, root)
        mode = dist.Delta(mean, log_density=log_density, event_dim=1)
        msg["fn"] = mode.expand(msg["fn"].batch_shape)
