"""Joint estimation of loading, intercept and latents on a whole table."""

from pyro_expfam.joint.in_memory import TableInMemory
from pyro_expfam.joint.problem import JointProblem
from pyro_expfam.joint.scoring import Fit, Sweep, fit_joint
from pyro_expfam.joint.stream import StreamedTable
from pyro_expfam.joint.table import Table

__all__ = [
    "Fit",
    "JointProblem",
    "StreamedTable",
    "Sweep",
    "Table",
    "TableInMemory",
    "fit_joint",
]
