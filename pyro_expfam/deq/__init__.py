"""The equilibrium layer: a problem, a solver, its root and the root's implicit gradient."""

from pyro_expfam.deq import linear
from pyro_expfam.deq.anderson import Anderson
from pyro_expfam.deq.fisher_scoring import FisherScoring
from pyro_expfam.deq.fixed_point import FixedPoint
from pyro_expfam.deq.layer import DEQLayer, solve_latents
from pyro_expfam.deq.linear_map import Dense, LinearMap
from pyro_expfam.deq.newton_cg import NewtonCG
from pyro_expfam.deq.problem import LatentProblem
from pyro_expfam.deq.solution import ConvergenceWarning, Solution
from pyro_expfam.deq.solver import Solver

__all__ = [
    "Anderson",
    "ConvergenceWarning",
    "DEQLayer",
    "Dense",
    "FisherScoring",
    "FixedPoint",
    "LatentProblem",
    "LinearMap",
    "NewtonCG",
    "Solution",
    "Solver",
    "linear",
    "solve_latents",
]
