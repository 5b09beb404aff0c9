"""A guide that shares the parameters of another guide of the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pyro.infer.autoguide import AutoGuide

from pyro_expfam.deq.solver import Solver
from pyro_expfam.guides.block_guide import BlockGuide
from pyro_expfam.guides.block_sites import BlockSites
from pyro_expfam.guides.coefficient_guide import started_from
from pyro_expfam.guides.shared_globals import SharedGlobals
from pyro_expfam.guides.structured_guide import StructuredGuide


class SharedTraining(BlockGuide):
    """A guide that has its own parameters, or the parameters of ``params``.

    Args:
        model: as for :class:`BlockGuide`.
        global_guide: as for :class:`BlockGuide`.
        solver: as for :class:`BlockGuide`.
        warm_start: as for :class:`BlockGuide`.
        params: a guide of the same model, or None.
        condition_on: as for :class:`DEQMAPGuide`.

    Raises:
        TypeError: if ``params`` is no guide of this package.
        ValueError: if ``params`` is a guide of another model.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        global_guide: Callable[[Callable[..., Any]], AutoGuide],
        solver: Solver | str | None,
        warm_start: bool,
        params: BlockGuide | None,
        condition_on: Literal["model", "table"] = "model",
    ) -> None:
        if params is not None and not isinstance(params, BlockGuide):
            raise TypeError(
                "params must be a guide of the same model, such as a trained DEQMAPGuide, got "
                f"{type(params).__name__}"
            )
        if params is not None and params.model is not model:
            raise ValueError(
                f"params must be a guide of the same model, got one of {params.model!r}"
            )
        if params is not None:
            global_guide = _shared(global_guide, params)
        super().__init__(model, global_guide, solver, warm_start, condition_on)
        # In a tuple, so that the parameters keep the name that they were trained under.
        self._params = (params,)

    @property
    def params(self) -> BlockGuide | None:
        """The guide whose parameters this one shares, or None."""
        return self._params[0]

    def _trained_guide(self) -> StructuredGuide:
        return self if self.params is None else self.params._trained_guide()

    def _see(self, *args: Any, **kwargs: Any) -> None:
        super()._see(*args, **kwargs)
        if self.params is not None:
            self.params._see(*args, **kwargs)

    def _claim(self) -> None:
        super()._claim()
        if self.params is not None:
            self.params._claim()

    def _known_blocks(self) -> dict[str, BlockSites]:
        return self._sites or ({} if self.params is None else self.params._known_blocks())


def _shared(
    global_guide: Callable[[Callable[..., Any]], AutoGuide], params: BlockGuide
) -> Callable[[Callable[..., Any]], AutoGuide]:
    """Makes a guide of all other latents as before, with the parameters of another guide."""

    def make(model: Callable[..., Any]) -> AutoGuide:
        return started_from(global_guide(model), SharedGlobals(model, params))

    return make
