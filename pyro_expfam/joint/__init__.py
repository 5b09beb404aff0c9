"""Estimation of loading and intercept on a whole table, with the latents solved for."""

from pyro_expfam.deq.processes import ProcessesError
from pyro_expfam.joint.account import Fit, Start, Sweep, num_optima
from pyro_expfam.joint.empty_table import EmptyTable
from pyro_expfam.joint.in_memory import TableInMemory
from pyro_expfam.joint.joint_problem import JointProblem
from pyro_expfam.joint.learnt_parameters import (
    FreeParameter,
    LearntParametersProblem,
)
from pyro_expfam.joint.noise_scale import NoiseScaleProblem, ScaledCoefficients
from pyro_expfam.joint.objective import ColumnSums, Objective
from pyro_expfam.joint.row_order import gather_rows, row_numbers, sum_rows, write_rows
from pyro_expfam.joint.scoring import fit_coefficients
from pyro_expfam.joint.sparse_table import SparseTable
from pyro_expfam.joint.stream import StreamedTable
from pyro_expfam.joint.table import Table

__all__ = [
    "ColumnSums",
    "EmptyTable",
    "Fit",
    "FreeParameter",
    "JointProblem",
    "LearntParametersProblem",
    "NoiseScaleProblem",
    "Objective",
    "ProcessesError",
    "ScaledCoefficients",
    "SparseTable",
    "Start",
    "StreamedTable",
    "Sweep",
    "Table",
    "TableInMemory",
    "fit_coefficients",
    "gather_rows",
    "num_optima",
    "row_numbers",
    "sum_rows",
    "write_rows",
]
