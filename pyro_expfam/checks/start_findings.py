"""Whether a fit has found the best optimum, as far as its starts can say, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyro_expfam.checks.finding import NOTE, OK, Finding
from pyro_expfam.joint import Start, num_optima


def start_findings(starts: Sequence[Start]) -> Iterator[Finding]:
    """How many optima the starts of a fit have led to."""
    ends = [start.objective for start in starts if start.refined]
    if len(ends) < 2:
        return
    optima = num_optima(starts)
    followed = f"of {len(starts)} starts of the fit the best {len(ends)} were followed to rest, "
    if optima == 1:
        yield Finding(OK, "optima", f"{followed}and all of them ended at one optimum.")
        return
    yield Finding(
        NOTE,
        "optima",
        f"{followed}and ended at {optima} optima, up to {max(ends) - min(ends):,.3g} nats apart. "
        "The guide has the best of them; more starts, by num_starts, may find a better one.",
    )
