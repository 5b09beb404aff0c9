"""Joint estimation of loading, intercept and latents on a whole table."""

from pyro_expfam.joint.scoring import Fit, Sweep, fit_joint
from pyro_expfam.joint.table import JointProblem

__all__ = ["Fit", "JointProblem", "Sweep", "fit_joint"]
