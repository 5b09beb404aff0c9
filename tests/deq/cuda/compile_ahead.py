"""Compiles kernels for devices that need not be here, and prints what they take of them.

Usage: ``python compile_ahead.py CASES``, where cases are a JSON list of kernel, activation, number
of latents, fields and compute capability. Prints a JSON list of registers a thread, and bytes of
local memory, which spilled registers take.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pyro_expfam import families, links
from pyro_expfam.deq import LatentProblem
from pyro_expfam.deq.cuda import blocking, evidence, gradients, searching, solving
from pyro_expfam.deq.cuda.cuda_table import CudaMatrix, CudaTable, as_cuda_table
from pyro_expfam.deq.reduction import canonical_problem
from pyro_expfam.deq.search_rules import SearchRules
from pyro_expfam.deq.step_rules import StepRules

FAMILIES = {
    "identity": families.Gaussian(1.0),
    "exponential": families.Poisson(),
    "logistic": families.Bernoulli(),
    "continuous_bernoulli": families.ContinuousBernoulli(),
    "softmax": families.Categorical(4),
    "negative_binomial": families.NegativeBinomial(2.0),
    "gamma": families.Gamma(2.0),
    "probit": families.Binomial(3, link=links.Probit()),
    "complementary_log_log": families.Binomial(3, link=links.ComplementaryLogLog()),
}
ENTRIES = CudaMatrix("*fp32", "i64", "i64")
MATRIX = "*fp32"
RULES = StepRules("fp32", "fp32", "fp32", "fp32", "fp32", "fp32", "i32")
IN_DOUBLE = ("loading", "products", "intercept", "precision")
"""What all rows share, in a table whose rows search along their steps."""

SOLUTION = (MATRIX, "*i1", "*i64", MATRIX)

ROW_KERNELS = {
    "scoring_kernel": (
        solving.scoring_kernel,
        [MATRIX, SOLUTION, RULES, "fp32", MATRIX],
    ),
    "searching_kernel": (
        searching.searching_kernel,
        [
            MATRIX,
            MATRIX,
            SOLUTION,
            SearchRules("fp32", "fp32", "fp32", "fp32", "fp32", "i32", "i32"),
        ],
    ),
    "information_kernel": (gradients.information_kernel, [MATRIX, MATRIX, MATRIX, "*i1", "fp32"]),
    "row_kernel": (gradients.row_kernel, [MATRIX, MATRIX, MATRIX]),
    "evidence_kernel": (evidence.evidence_kernel, [MATRIX, MATRIX, MATRIX, "*i1", "fp32"]),
    "matrix_kernel": (evidence.matrix_kernel, [MATRIX, MATRIX]),
    "moment_kernel": (evidence.moment_kernel, [MATRIX] * 4),
}
FEATURE_KERNELS = {
    "gradient_kernel": (
        gradients.gradient_kernel,
        [MATRIX] * 4 + [gradients.EntryGradients(ENTRIES, ENTRIES, ENTRIES)],
    ),
    "evidence_gradient_kernel": (evidence.evidence_gradient_kernel, [MATRIX] * 9 + [ENTRIES]),
    "covariance_kernel": (evidence.covariance_kernel, [MATRIX] * 4),
}


def compile_case(kernel: str, activation: str, latent_dim: int, fields: str, capability: int):
    """Registers and local memory of a kernel of a case."""
    constants = constants_of(activation, latent_dim)
    by_row = kernel in ROW_KERNELS
    function, arguments = (ROW_KERNELS if by_row else FEATURE_KERNELS)[kernel]
    solves = kernel in ("scoring_kernel", "information_kernel", "evidence_kernel")
    blocks = blocking.sum_blocks()
    if by_row:
        blocks = (blocking.row_blocks if solves else blocking.light_blocks)(constants)
    if kernel == "searching_kernel":
        blocks = blocking.search_blocks(constants)
    options = {name: blocks.pop(name) for name in ("num_warps", "num_stages")}
    constants |= blocks
    if not by_row:
        constants["CHUNK"] = blocking.CHUNK_ROWS
        constants["COLUMNS"] = min(blocking.COLUMNS, constants["PACKED"])
    constants["LEVELS"] = FAMILIES[activation].predictors_per_column
    names = function.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    types = table_types(fields)
    if kernel == "searching_kernel":
        types = types._replace(**dict.fromkeys(IN_DOUBLE, "*fp64"))
        types = types._replace(size=CudaMatrix("*fp64", "i64", "i64"))
    signature = dict(zip(names, [types, *arguments], strict=False))
    signature |= dict.fromkeys(constants, "constexpr")
    values = {(names.index(name),): value for name, value in constants.items()}
    absent = [] if fields == "all" else [CudaTable._fields.index(x) for x in ("offset", "weights")]
    values |= {(0, place): None for place in absent}
    compiled = triton.compile(
        ASTSource(function, signature, values),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )
    return resources(compiled.asm["cubin"])


def constants_of(activation: str, latent_dim: int):
    """What the kernels of an activation are specialised for."""
    family = FAMILIES[activation]
    y = torch.ones(1, family.predictors_per_column)
    problem = LatentProblem(
        family, y, torch.zeros(y.shape[1], latent_dim), torch.zeros(y.shape[1]), torch.tensor(1.0)
    )
    reduced = canonical_problem(problem)
    return as_cuda_table(problem if reduced is None else reduced[0])[1]


def table_types(fields: str) -> CudaTable:
    """The types of a table with all of its fields, or with none that may be left out."""
    optional = ENTRIES if fields == "all" else "constexpr"
    types = dict.fromkeys(CudaTable._fields, MATRIX)
    types |= {"statistic": ENTRIES, "offset": optional, "weights": optional, "size": ENTRIES}
    types |= dict.fromkeys(("slope", "shift", "constant"), "fp32")
    types |= dict.fromkeys(("num_rows", "num_features", "latent_dim"), "i32")
    return CudaTable(**types)


def resources(binary: bytes) -> list[int]:
    """Registers a thread of a compiled kernel, and its bytes of local memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    registers, stack, local = map(int, found.groups())
    return [registers, stack + local]


if __name__ == "__main__":
    print(json.dumps([compile_case(*case) for case in json.loads(sys.argv[1])]))
