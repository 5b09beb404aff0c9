"""What the guides of exponential-family PCA have in common."""

from __future__ import annotations

from pyro_expfam.guides.fitted_guide import FittedGuide
from pyro_expfam.guides.learnt_blocks import LearntBlocks
from pyro_expfam.guides.saved_guide import SavedGuide


class BlockGuide(LearntBlocks, FittedGuide, SavedGuide):
    """A guide whose block latents come from the equilibrium layer; the base of both guides.

    **Parameters.** A guide owns what it learns. Pyro's store keeps parameters by name, and guides
    of one class have the same names. Before a guide runs, it replaces what other guides and models
    of this package left in the store by its own parameters and the parameters of its model. So
    the fits of one program never touch each other, and ``pyro.clear_param_store()`` takes nothing
    from a guide. A guide takes over what the user puts into the store, as by ``ParamStore.load``,
    at its next use. Compiled losses, such as ``JitTrace_ELBO``, read the store by name without
    running the guide: use them in a program with one guide.

    Point parameters of a block, such as an intercept without a prior, belong to the model, and so
    to all of its guides. When a second guide of the same model trains them, the loading of the
    first guide no longer goes with them. The first guide then refuses to be used until it is
    trained again.

    **Columns.** A guide that was trained on a data frame remembers the labels of its columns, also
    when it is pickled or copied. It refuses a frame with other columns, or with the same columns in
    another order. Arrays, tensors and frames with the columns ``0, 1, ...`` are taken by position.
    A fit to another frame replaces the labels, and a loaded ``state_dict`` forgets them.

    **Saving.** ``state_dict()`` holds the parameters of the guide and, under ``model.``, the point
    parameters of its blocks. A fresh guide can load it before its first call. The guide of a single
    block loads it at once. Any other guide keeps it until its first call, which shows the
    structure of the model. A guide can also be pickled and copied, and :meth:`save` writes it to a
    file with its model.

    **Threads.** ``latents``, ``posterior``, ``log_evidence`` and the other methods of :meth:`block`
    may be called from many threads at once. The guide itself may not, since all threads share
    Pyro's handlers.

    Args:
        model: a Pyro model with at least one :class:`~pyro_expfam.ExpFamPCA` block.
        global_guide: makes the guide of all other latents from a model that has only those,
            such as :class:`~pyro.infer.autoguide.AutoNormal`.
        solver: as for :func:`~pyro_expfam.solve_latents`.
        warm_start: whether solving starts from the latents that the same rows had last.
    """
