"""The latents of rows in the last solve, where the next solve of these rows starts."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import Solution
from pyro_expfam.models import RowPlace


class WarmStart:
    """The last latents of each table, by site: ``(N, l)`` numbers per table.

    Under a convex loss a solver finds the same root from every start. It takes fewer evaluations
    from the root under the loading of the last step. Under any other loss the start may decide
    which of several roots it finds.
    """

    def __init__(self) -> None:
        self._latents: dict[str, Tensor] = {}

    def kept(self) -> dict[str, Tensor]:
        """A copy of all latents, to go back to."""
        return {site: z.clone() for site, z in self._latents.items()}

    def go_back(self, kept: dict[str, Tensor]) -> None:
        """Starts from latents that :meth:`kept` has returned."""
        self._latents = {site: z.clone() for site, z in kept.items()}

    def start(self, site: str, problem: LatentProblem, place: RowPlace | None) -> Tensor:
        """Latents to start from, ``(..., N, l)``: zero for new rows."""
        known = self._latents.get(site)
        if known is None or place is None or not _fits(known, problem, place):
            shape = (*problem.batch_shape, problem.num_rows, problem.latent_dim)
            zero = torch.zeros((), dtype=problem.map.dtype, device=problem.map.device)
            return zero.expand(shape)
        return known if isinstance(place.rows, slice) else known[place.rows]

    def remember(
        self, site: str, problem: LatentProblem, place: RowPlace | None, solution: Solution
    ) -> None:
        """Keeps the latents of rows that have converged, unless an inference mode is on."""
        has_batch = problem.batch_shape or solution.value.dim() > 2
        if place is None or has_batch or torch.is_inference_mode_enabled():
            return
        known = self._latents.get(site)
        if isinstance(place.rows, slice) and solution.all_converged():
            self._latents[site] = solution.value.detach().clone()
            return
        if known is None or not _fits(known, problem, place):
            known = problem.b.detach().new_zeros(place.num_rows, problem.latent_dim)
            self._latents[site] = known
        found = solution.value.detach()
        known[place.rows] = found.where(solution.converged[:, None], known[place.rows])


def _fits(known: Tensor, problem: LatentProblem, place: RowPlace) -> bool:
    return (
        not problem.batch_shape
        and known.shape == (place.num_rows, problem.latent_dim)
        and known.dtype == problem.map.dtype
        and known.device == problem.map.device
    )
