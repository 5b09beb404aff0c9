"""Pictures by matplotlib: latents, loadings, biplots, model choice, fit and calibration.

Every function draws on the axes ``ax``, or on the axes of a new figure, and returns them.
Matplotlib is imported with the first picture; the extra ``plots`` installs it.
"""

from pyro_expfam.plots.admissibility import plot_admissibility
from pyro_expfam.plots.biplot import plot_biplot
from pyro_expfam.plots.calibration import plot_calibration
from pyro_expfam.plots.columns import plot_columns, plot_residuals
from pyro_expfam.plots.ecdf import plot_ecdf
from pyro_expfam.plots.information import plot_information
from pyro_expfam.plots.khat import plot_khat
from pyro_expfam.plots.latents import plot_latents
from pyro_expfam.plots.loading import plot_loading
from pyro_expfam.plots.model_choice import plot_comparison, plot_evidence
from pyro_expfam.plots.reconstruction import plot_reconstruction

__all__ = [
    "plot_admissibility",
    "plot_biplot",
    "plot_calibration",
    "plot_columns",
    "plot_comparison",
    "plot_ecdf",
    "plot_evidence",
    "plot_information",
    "plot_khat",
    "plot_latents",
    "plot_loading",
    "plot_reconstruction",
    "plot_residuals",
]
