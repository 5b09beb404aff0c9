"""What the guides of exponential-family PCA have in common."""

from __future__ import annotations

from pyro_expfam.guides.fitted_guide import FittedGuide
from pyro_expfam.guides.learnt_blocks import LearntBlocks
from pyro_expfam.guides.saved_guide import SavedGuide


class BlockGuide(LearntBlocks, FittedGuide, SavedGuide):
    """A guide whose block latents come from the equilibrium layer; the base of both guides.

    **Parameters.** A guide owns what it learns. Pyro's store keeps parameters by name, and guides
    of one class have the same names; before a guide runs it puts its own parameters, and the
    parameters of its model, in the place of what other guides and models of this package left in
    the store. So fits of one program never touch each other, and ``pyro.clear_param_store()``
    takes nothing from a guide. What the user puts into the store, as by ``ParamStore.load``, is
    taken over at the next use of the guide. Losses that are compiled, such as ``JitTrace_ELBO``,
    read the store by name without running the guide, and want a program with one guide.

    Point parameters of a block, such as an intercept without a prior, belong to the model, and so
    to all of its guides. Where a second guide of the same model trains them, the first refuses to
    be used until it is trained again, since its loading no longer goes with them.

    **Saving.** ``state_dict()`` holds the parameters of the guide and, under ``model.``, the point
    parameters of its blocks. A fresh guide loads it before its first call: the guide of a single
    block at once, any other when its first call shows the structure of its model. A guide can
    also be pickled, copied, and saved as a whole, with its model.

    **Threads.** ``latents``, ``posterior``, ``log_evidence`` and what else :meth:`block` offers
    may be called from many threads at once; a call of the guide itself may not, since all threads
    share Pyro's handlers.

    Args:
        model: a Pyro model with at least one :class:`~pyro_expfam.ExpFamPCA` block.
        global_guide: makes the guide of all other latents from a model that has only those,
            such as :class:`~pyro.infer.autoguide.AutoNormal`.
        solver: as for :func:`~pyro_expfam.solve_latents`.
        warm_start: whether to start from where the same rows were last.
    """
