"""What a guide knows of its model: the blocks, the other latents, and whose parameters are whose.

A guide looks at the structure of its model at its first use. Only which sites the model observes
may differ by call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.infer.autoguide import AutoCallable, AutoDelta, AutoGuide
from pyro.nn import PyroModule
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_expfam.deq.inference_mode import outside_inference_mode
from pyro_expfam.deq.layer import make_solver
from pyro_expfam.deq.solver import Solver
from pyro_expfam.families import Family
from pyro_expfam.guides.block_sites import BlockSites, find_blocks
from pyro_expfam.guides.column_labels import ColumnLabels
from pyro_expfam.guides.dependence import Dependences, LatentGroup, predictions
from pyro_expfam.guides.latent_messenger import WithoutBlockLatents, is_block_latent
from pyro_expfam.guides.plain_errors import plain_errors
from pyro_expfam.guides.point_parameters import PointParameters
from pyro_expfam.guides.prototype import keep_structure
from pyro_expfam.guides.training_table import TrainingTable
from pyro_expfam.guides.warm_start import WarmStart
from pyro_expfam.joint import Start
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.models.annotations import is_enumerated, observed_site
from pyro_expfam.runtime.handlers import computes_loss
from pyro_expfam.runtime.ownership import LOCK, claim, claim_when_called, without_stored


def _is_no_site_of_interest(msg: Any) -> bool:
    """Whether a site is no latent and no table of a block."""
    if msg["type"] != "sample" or site_is_subsample(msg):
        return True
    return bool(msg["is_observed"]) and observed_site(msg) is None


class StructuredGuide(AutoGuide):
    """A guide that knows the blocks of its model, and has a guide of all other latents.

    Args:
        model: a Pyro model with at least one :class:`~pyro_expfam.ExpFamPCA` block.
        global_guide: makes the guide of all other latents from a model that has only those.
        solver: as for :func:`~pyro_expfam.solve_latents`.
        warm_start: whether to start from the latents that the same rows had last.
        condition_on: ``"model"`` for latents given everything that the model observes of them,
            ``"table"`` for latents given the tables of blocks alone.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        global_guide: Callable[[Callable[..., Any]], AutoGuide],
        solver: Solver | str | None = None,
        warm_start: bool = True,
        condition_on: Literal["model", "table"] = "model",
    ) -> None:
        if condition_on not in ("model", "table"):
            raise ValueError(f"condition_on must be 'model' or 'table', got {condition_on!r}")
        if isinstance(model, Family):
            raise TypeError(
                f"model must be a Pyro model, got the family {model}: pass "
                f"pyro_expfam.ExpFamPCA(pyro_expfam.families.{model}, num_features, latent_dim)"
            )
        super().__init__(model)
        self.warm_start = warm_start
        self._warm_start = WarmStart()
        self.solver = make_solver(solver)
        # Past AutoGuide's own assignment: this part makes its own plates, for its own sites.
        self._predictions: set[str] = set()
        others = WithoutBlockLatents(model, self._predictions)
        PyroModule.__setattr__(self, "global_guide", global_guide(others))
        # In a tuple, so that the model's parameters stay its own.
        self._whole_model: tuple[Callable[..., Any]] = (model,)
        if isinstance(model, PyroModule) and not isinstance(model, ExpFamPCA):
            claim_when_called(model)
        self._latent_sites: frozenset[str] = frozenset()
        self._sites: dict[str, BlockSites] = {}
        self._dependences = Dependences(model, tables_only=condition_on == "table")
        self._checked_groups: set[LatentGroup] = set()
        self._has_globals = False
        self._earlier_values: dict[str, Tensor] = {}
        self._trained_on: TrainingTable | None = None
        self._starts: tuple[Start, ...] = ()
        self._columns = ColumnLabels()
        self._first_parameters: dict[str, Tensor] = {}
        self._point_parameters: dict[ExpFamPCA, PointParameters] = {}
        self._unloaded_state: dict[str, Tensor] | None = None

    def _see(self, *args: Any, **kwargs: Any) -> None:
        """Claims the names of parameters, and looks at the structure of the model.

        The structure is known from the first call.
        """
        with LOCK:
            self._claim()
            if self.prototype_trace is None:
                with outside_inference_mode(), plain_errors(self.model):
                    self._setup_prototype(*args, **kwargs)
            if self._unloaded_state is not None:
                self.load_state_dict(self._unloaded_state)
                self._unloaded_state = None

    def _forget_structure(self) -> None:
        """Makes this guide, and the one that has its parameters, one that has seen no data."""
        for guide in (self, self._trained_guide()):
            guide.prototype_trace, guide._sites = None, {}

    # Tables stay in the prototype, which shows the blocks.
    _prototype_hide_fn = staticmethod(_is_no_site_of_interest)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        sites = dict(self.prototype_trace.iter_stochastic_nodes())  # type: ignore[union-attr]
        latents = {name: site for name, site in sites.items() if is_block_latent(site)}
        if not latents:
            self.prototype_trace = None
            raise ValueError(
                "model must have a block, a pyro_expfam.ExpFamPCA that it calls; got a model "
                f"with latent sites {sorted(sites)}"
            )
        self._latent_sites = frozenset(latents)
        self._sites = {found.name: found for found in find_blocks(self.prototype_trace)}
        absent = self._find_predictions(sites, args, kwargs)
        self._has_globals = len(latents) < len(sites.keys() - absent)
        # A block may be called several times in a model, and has its parameters once.
        self._point_parameters = {
            block: PointParameters() for block in self._named_blocks().values()
        }
        if self._has_globals and self._trained_guide() is self:
            try:
                self._make_global_parameters(*args, **kwargs)
            except Exception:
                self.prototype_trace = None
                raise
        self._keep_structure()
        self._claim()
        self._first_parameters = {
            name: value.detach().clone() for name, value in self._trainable().items()
        }

    def _find_predictions(self, sites: dict[str, Any], args: Any, kwargs: Any) -> frozenset[str]:
        """Leaves out sites that only predict, such as labels that are not given."""
        may_predict = {
            name: site
            for name, site in sites.items()
            if not is_block_latent(site) and not is_enumerated(site)
        }
        if not may_predict or isinstance(self.model, ExpFamPCA):
            return frozenset()
        found = predictions(self._whole_model[0], self._latent_sites, args, kwargs)
        if computes_loss():
            for name in found:
                if may_predict[name]["fn"].support.is_discrete:
                    raise ValueError(
                        f"{name!r} must be observed in training, or be enumerated "
                        "(infer={'enumerate': 'parallel'}), got a discrete site without "
                        "observations"
                    )
            return frozenset()
        self._predictions.update(found)
        return found

    def _keep_structure(self) -> None:
        """Lets the prototype traces of this guide and its list forget the numbers of their run."""
        guides: list[Any] = [self, *self.global_guide.modules()]
        if self.master is not None:
            guides.append(self.master())
        for guide in guides:
            if isinstance(guide, AutoGuide) and guide.prototype_trace is not None:
                keep_structure(guide.prototype_trace)

    def _makes_parameters_in_runs(self) -> bool:
        """Whether the guide of all other latents, or a list of guides, may do so."""
        return self.master is not None or type(self.global_guide) is not AutoDelta

    def _make_global_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Makes the parameters of the guide of all other latents, whatever the store has."""
        with without_stored(self):
            for part in list(self.global_guide.modules()):
                is_made_in_its_run = not isinstance(part, AutoGuide) or type(part) is AutoCallable
                if not is_made_in_its_run and part.prototype_trace is None:
                    part._setup_prototype(*args, **kwargs)

    def _known_blocks(self) -> dict[str, BlockSites]:
        return self._sites

    def _named_blocks(self) -> dict[str, ExpFamPCA]:
        return {name: sites.block for name, sites in self._sites.items()}

    # ---------------------------------------------------------------- parameters

    def _claim(self) -> None:
        """Has Pyro's store hold the parameters of this guide and its model under their names."""
        model = self._whole_model[0]
        if isinstance(model, nn.Module):
            claim(model)
        if self.master is None:
            claim(self)
            return
        whole = self.master()
        claim(whole)
        for part in whole:
            # A list asks its parts for their medians without being called itself.
            claim_when_called(part)

    def _trained_guide(self) -> StructuredGuide:
        """The guide whose parameters training sets: this one, unless it shares another's."""
        return self

    def _trainable(self) -> dict[str, Tensor]:
        """The parameters that training moves, by name."""
        modules = {"guide": self.global_guide, "model": self._whole_model[0]}
        return {
            f"{owner}.{name}": parameter
            for owner, module in modules.items()
            if isinstance(module, nn.Module)
            for name, parameter in module.named_parameters()
        }

    @property
    def is_trained(self) -> bool:
        """Whether training has moved the parameters; also True where this cannot be known.

        It is known of a guide of a single block.
        """
        if not isinstance(self.model, ExpFamPCA):
            return True
        trained = self._trained_guide()
        return trained.prototype_trace is not None and not trained._is_untrained()

    def _is_untrained(self) -> bool:
        """Whether the parameters are still the random ones that the guide began with."""
        now = self._trainable()
        return now.keys() == self._first_parameters.keys() and all(
            torch.equal(value, self._first_parameters[name].to(value))
            for name, value in now.items()
        )

    def _begin_training(self) -> None:
        """Notes that the point parameters of the blocks are this guide's from now on."""
        for block, point in self._trained_guide()._point_parameters.items():
            point.begin_training(block)

    def _refuse_moved_parameters(self) -> None:
        """An error if another guide of the model has trained point parameters since this one."""
        for block, point in self._trained_guide()._point_parameters.items():
            point.refuse_if_moved(block)
