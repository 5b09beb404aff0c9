"""Conversion of a Pyro model and its guide to ArviZ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide, AutoGuideList

from pyro_expfam.deq.processes import processes_of
from pyro_expfam.diagnostics.container import Group, Variable, container
from pyro_expfam.diagnostics.dims import ArrayDims
from pyro_expfam.diagnostics.draws import Draws, Sampler, to_numpy
from pyro_expfam.diagnostics.group_variables import GroupVariables
from pyro_expfam.diagnostics.labels import Labels
from pyro_expfam.diagnostics.model_arguments import Arguments
from pyro_expfam.diagnostics.sites import (
    SAMPLE_DIMS,
    Site,
    argument_dims_of,
    columns_of,
    describe,
    distinct_dims,
    kinds_of,
    level_counts,
    levels_of,
    names_of,
    plate_dims_of,
    plates_of,
    value_of,
)
from pyro_expfam.diagnostics.size import bytes_by_group, check_size
from pyro_expfam.runtime.own_errors import own_errors
from pyro_expfam.runtime.ownership import LOCK
from pyro_expfam.user_warning import warn_user

GROUPS = (
    "posterior",
    "posterior_predictive",
    "predictions",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
)
"""The groups in the order of ArviZ's schema."""

SIMULATED = frozenset(["posterior_predictive", "predictions", "prior_predictive"])
"""The groups that hold drawn observations."""

PREDICTIVE = ("posterior_predictive", "prior_predictive", "predictions", "log_likelihood")
"""The groups that hold draws for each entry of the observations."""


def to_arviz(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 1000,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    groups: Sequence[str] | None = None,
    log_likelihood_dtype: Any = "float64",
    max_gigabytes: float = 4.0,
    processes: Any = None,
    **kwargs: Any,
) -> Any:
    r"""Draws of a Pyro model and its SVI guide in the container of the installed ArviZ.

    The groups, whose draws are of shape ``(1, num_samples, ...)``:

    - ``posterior``: the latent sites, drawn from the guide, and the deterministic sites. A learnt
      parameter of the law of an observation, such as ``family_scale``, is the same in all draws.
    - ``posterior_predictive``: observations drawn from the model, given draws of the guide.
    - ``prior`` and ``prior_predictive``: the same sites drawn from the model, without the guide.
    - ``log_likelihood``: for an observed site ``y``, the log density of every entry, as ``y``. If
      entries make up events, as the features of a row do with ``to_event(1)``, the sum over each
      event is the coordinate ``y_row``. If events have latents of their own, as the rows of a
      :class:`~pyro_expfam.ExpFamPCA` do, the log density with these integrated out, to second
      order, is the coordinate ``y_marginal``. Where latents meet more than one table, each table
      has a ``y_marginal`` of its own, as if its table were all that the model observes. The
      coordinate ``marginal`` of the block that samples the latents, such as ``genes.marginal``, is
      for everything together: all tables, labels and other sites in the plate of the rows. The
      scales of plates do not enter.
    - ``observed_data``, and ``constant_data`` for all other numeric arguments of the model.
    - ``sample_stats``: the log joint density of the model as ``lp`` and the log density of the
      guide as ``log_q``, both with the scales of plates, as in the ELBO. If the guide has a method
      ``sample_stats(*args, **kwargs)``, its results are added by name, such as ``genes.khat``.

    Dimensions are named by their plate, or by the list ``event_dims`` in the site's ``infer``, as
    in ``pyro.sample("y", law, infer={"event_dims": ["feature"]})``; others are ``y_dim_0`` and so
    on. A mapping ``plate_dims`` there gives the dimension of a plate another name. The dimensions
    of an :class:`~pyro_expfam.ExpFamPCA` are ``row``, ``feature`` and ``latent``, prefixed with the
    name of the block in a larger model: ``genes.row``. A table that shares the latents of another
    block shares its dimensions of rows and latents too. With ``latent_rows`` it has rows of its
    own, labelled by the rows of the latents that they belong to. A name that would stand for two
    sizes is prefixed with the site's name. If a plate is subsampled, all draws share one subsample,
    with its indices as coordinates. The labels of a data frame become coordinates of rows and
    features.

    If entries are masked, the table ``y`` keeps its shape, with NaN for a missing entry. A missing
    entry has no likelihood. The variable of ``log_likelihood`` is then a list ``y_present`` of the
    other entries, along ``y_entry``, with the coordinates ``y_entry_row`` and so on for the place
    of each. The same list is a second variable of ``observed_data`` and ``posterior_predictive``,
    for functions that compare these with likelihoods, such as
    ``az.plot_loo_pit(idata, y="y_present")``. Draws of the missing entries are the group
    ``predictions``.

    ``az.loo(idata)`` leaves out single entries, and predicts each also from the others of its row.
    ``az.loo(idata, var_name="y_marginal")`` leaves out whole rows. If loading and intercept are
    point estimates, it is the log evidence of the rows that trained them. ``"y_row"`` leaves out
    whole rows too, but its latents were inferred from the row, which importance sampling rarely
    corrects. In a model of several tables and labels, ``"genes.marginal"`` leaves out all that is
    observed of a row, and ``"genes.y_marginal"`` asks how well one table by itself is predicted.

    Draws are made in chunks if the model and the guide run in an outer plate, as for
    ``Predictive(parallel=True)``, and a draw there agrees with a run of its own. Otherwise they are
    made one by one. Predictive draws and likelihoods take ``num_samples`` times the memory of the
    observations: at the defaults 16 bytes per draw and entry in single precision, so that 1,000
    draws of 50,000 rows and 500 features would take 400 GB. A container of more than
    ``max_gigabytes`` is refused before it is made. Making it takes up to twice its memory.

    Args:
        model: a Pyro model.
        guide: a guide that samples all its latent sites, such as an
            :class:`~pyro.infer.autoguide.AutoNormal`, trained by SVI.
        *args: positional arguments of the model and the guide.
        num_samples: number of draws.
        coords: labels of dimensions, by name; by default positions.
        dims: names of the dimensions of sites and constant data, by variable, without the
            dimensions of draws.
        groups: the groups to make, among the ones above; by default all. Nothing else is computed.
        log_likelihood_dtype: ``"float64"``, or ``"float32"`` for half the memory.
        max_gigabytes: the most memory that the draws may take, in 10⁹ bytes.
        processes: the processes of ``torch.distributed`` that hold the rows, as for ``guide.fit``.
            Each passes rows of its own, at least one, and has a container of these rows, in which
            draws of all sites outside of the plate of rows are the same as in the others. The log
            densities in ``sample_stats`` are of its rows.
        **kwargs: keyword arguments of the model and the guide.

    Returns:
        An ``InferenceData`` in ArviZ 0.23, a :class:`xarray.DataTree` in ArviZ 1.x. Both can be
        saved with ``to_netcdf``.

    Raises:
        TypeError: if ``num_samples`` is not an integer, or model and guide are swapped.
        ValueError: if ``num_samples`` is below 1, if the guide lacks a latent site of the model,
            if ``dims``, ``coords``, ``groups``, ``log_likelihood_dtype`` or ``event_dims`` do not
            fit, or if the container would be too large; the message gives its size. If there are
            several processes, and latents are in several plates.
        ~pyro_expfam.joint.ProcessesError: if another process has stopped.

    Warns:
        UserWarning: if observations or the prior cannot be drawn; their groups are then left out.
            Also if the guide says that it has not been trained.

    Example:
        >>> import arviz as az
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from pyro_expfam.diagnostics import to_arviz
        >>> def model(y):
        ...     level = pyro.sample("level", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("row", len(y)):
        ...         rate = level.exp().unsqueeze(-1).expand(y.shape)
        ...         law = dist.Poisson(rate).to_event(1)
        ...         pyro.sample("y", law, obs=y, infer={"event_dims": ["feature"]})
        >>> y = torch.poisson(torch.full((10, 3), 2.0))
        >>> idata = to_arviz(model, AutoNormal(model), y, num_samples=100)
        >>> dict(idata["posterior_predictive"].sizes)
        {'chain': 1, 'draw': 100, 'row': 10, 'feature': 3}
        >>> idata["log_likelihood"]["y_row"].dims
        ('chain', 'draw', 'row')
    """
    _check_num_samples(num_samples)
    if isinstance(model, AutoGuide):
        raise TypeError(f"model must be the model, got the guide {type(model).__name__}: swap them")
    if getattr(guide, "is_trained", True) is False:
        warn_user(
            "the guide has not been trained, and its draws say nothing about the table: call "
            "guide.fit(y), train it with SVI, or load a state"
        )
    wanted = _groups(groups)
    precision = _log_likelihood_dtype(log_likelihood_dtype)
    group = processes_of(processes, _on_its_device(guide))
    with LOCK, own_errors(), group.together():
        sampler = Sampler(model, guide, args, kwargs, group)
        dims, coords = dict(dims or {}), dict(coords or {})
        plate_dims = plate_dims_of(sampler.sites.values())
        sites = _sites(sampler, dims, plate_dims)
        sizes = bytes_by_group(
            [(sites[name], sampler.sites[name]) for name in sampler.unobserved],
            [(sites[name], sampler.sites[name]) for name in sampler.observed],
            [sites[name] for name in sampler.marginal_sites.values()]
            if "log_likelihood" in wanted
            else [],
            wanted,
            num_samples,
            precision,
        )
        check_size(sizes, max_gigabytes)

        observed = [
            (sites[name], to_numpy(value_of(sampler.sites[name]).contiguous()))
            for name in sampler.observed
        ]
        plates = plates_of(sampler.sites.values(), plate_dims)
        columns = columns_of(sampler.sites.values())
        arguments = Arguments(model, args, kwargs, observed, columns)
        of_arguments = argument_dims_of(sampler.sites.values(), arguments.constant)
        constants = _constants(
            arguments, [site for site, _ in observed], plates, {**of_arguments, **dims}
        )
        stats: dict[str, Variable] = {}
        if "sample_stats" in wanted:
            stats = _guide_stats(guide, args, kwargs, sites.values(), plates, dims)
        parameters: dict[str, Variable] = {}
        if "posterior" in wanted:
            parameters = _parameters(sampler, sites, plates, dims)
        _check_all_used("dims", dims, [*sites, *constants, *stats, *parameters])

        categories = arguments.categories()
        indices = {plate_dims.get(name, name): index for name, index in sampler.indices.items()}
        known = {dim for site in sites.values() for dim in site.named_dims}
        labels = Labels(
            coords,
            _named_columns(columns, sites)
            | names_of(sampler.sites.values())
            | arguments.frame_labels(constants),
            indices,
            known,
            levels_of(sampler.sites.values()),
            categories,
            _parts_of_rows(sampler, sites),
            kinds_of(sampler.sites.values()),
        )
        made = {
            **_draw_groups(
                sampler, num_samples, wanted, sites, labels, stats, parameters, precision
            ),
            "observed_data": _observations(observed, labels),
            "constant_data": labels.group(constants),
        }
        labels.check_all_used()
        levels = level_counts(sampler.sites.values())
        shown = {name: made[name] for name in GROUPS if name in wanted}
        return container(shown, levels, categories)


def _on_its_device(guide: Any) -> torch.Tensor:
    """A tensor on the device of a guide."""
    parameters = guide.parameters() if isinstance(guide, torch.nn.Module) else iter(())
    return next(parameters, torch.empty(0)).detach()


def _named_columns(
    columns: Mapping[str, Sequence[Any]], sites: Mapping[str, Site]
) -> dict[str, np.ndarray]:
    """The names of columns that models know, by dimension."""
    return {
        sites[name].named_dims[-1]: np.array([str(x) for x in names], dtype=np.str_)
        for name, names in columns.items()
    }


def _check_num_samples(num_samples: int) -> None:
    if not isinstance(num_samples, int) or isinstance(num_samples, bool):
        raise TypeError(f"num_samples must be an integer, got {num_samples!r}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")


def _groups(groups: Sequence[str] | None) -> Collection[str]:
    if groups is None:
        return GROUPS
    if isinstance(groups, str) or not set(groups) <= set(GROUPS):
        raise ValueError(f"groups must be a list of names among {list(GROUPS)}, got {groups!r}")
    return groups


def _log_likelihood_dtype(dtype: Any) -> np.dtype:
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    if name not in ("float32", "float64", np.float32, np.float64):
        raise ValueError(f"log_likelihood_dtype must be 'float32' or 'float64', got {dtype!r}")
    return np.dtype(name)


def _sites(
    sampler: Sampler, dims: Mapping[str, Sequence[str]], plate_dims: Mapping[str, str]
) -> dict[str, Site]:
    described = [describe(site, plate_dims) for site in sampler.sites.values()]
    return {
        site.name: site.with_dims(dims[site.name]) if site.name in dims else site
        for site in distinct_dims(described)
    }


def _constants(
    arguments: Arguments,
    tables: Sequence[Site],
    plates: Mapping[str, int],
    dims: Mapping[str, Sequence[str]],
) -> dict[str, Variable]:
    """The arguments of the model that are constant data."""
    others = {dim: size for site in tables for dim, size in site.sizes.items() if dim not in plates}
    return _variables(ArrayDims(tables, plates, dims, others), arguments.constant)


def _guide_stats(
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    sites: Iterable[Site],
    plates: Mapping[str, int],
    dims: Mapping[str, Sequence[str]],
) -> dict[str, Variable]:
    """The sample statistics of a guide, or of the parts of a list of guides."""
    parts = guide if isinstance(guide, AutoGuideList) else [guide]
    reports = [part.sample_stats for part in parts if hasattr(part, "sample_stats")]
    stats = {
        name: to_numpy(torch.as_tensor(value))
        for report in reports
        for name, value in report(*args, **kwargs).items()
    }
    # Statistics of a guide describe its latents: a vector per row, in the shape of the latents, or
    # a number per row, along their plate. Only after these can they match the entries of a table.
    sites = [site for site in sites if plates.keys() & site.named_dims[:-1]]
    sites.sort(key=lambda site: site.is_observed)
    return _variables(ArrayDims(sites, plates, dims, {}), stats)


def _parts_of_rows(
    sampler: Sampler, sites: Mapping[str, Site]
) -> dict[str, tuple[str, np.ndarray, int]]:
    """The dimensions of some of the rows or columns of another dimension.

    A site says so by ``rows_of`` in its ``infer``: the name of the other dimension, the places of
    its own rows there, and the number of places. By ``columns_of_parameters`` it names, for learnt
    parameters of some columns, a dimension of its own, the dimension of all columns, and the places
    there.
    """
    found = {}
    for name in sampler.observed:
        rows_of = sampler.sites[name]["infer"].get("rows_of")
        if rows_of is not None:
            whole, places, size = rows_of
            found[sites[name].named_dims[-2]] = (whole, to_numpy(places), size)
        of_parameters = sampler.sites[name]["infer"].get("columns_of_parameters") or {}
        for dim, whole, columns in of_parameters.values():
            found[dim] = (whole, np.array(columns), sites[name].sizes[whole])
    return found


def _parameters(
    sampler: Sampler,
    sites: Mapping[str, Site],
    plates: Mapping[str, int],
    dims: Mapping[str, Sequence[str]],
) -> dict[str, Variable]:
    """The learnt parameters of the laws of observations, by name."""
    found: dict[str, Variable] = {}
    for site in sampler.observed:
        for name, value in (sampler.sites[site]["infer"].get("parameters") or {}).items():
            values = to_numpy(value)
            of_columns = sampler.sites[site]["infer"].get("columns_of_parameters") or {}
            if values.ndim == 1 and name not in dims and name in of_columns:
                found[name] = Variable((of_columns[name][0],), values)
                continue
            of_site = list(sites[site].sizes.items())[-values.ndim :] if values.ndim else []
            if name not in dims and tuple(size for _, size in of_site) == values.shape:
                found[name] = Variable(tuple(dim for dim, _ in of_site), values)
            else:
                found[name] = ArrayDims([sites[site]], plates, dims, {}).variable(name, values)
    return found


def _variables(arrays: ArrayDims, values: Mapping[str, np.ndarray]) -> dict[str, Variable]:
    return {name: arrays.variable(name, value) for name, value in values.items()}


def _check_all_used(argument: str, given: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{argument} must be of variables among {sorted(known)}, got {unknown}")


def _draw_groups(
    sampler: Sampler,
    num_samples: int,
    wanted: Collection[str],
    sites: Mapping[str, Site],
    labels: Labels,
    stats: Mapping[str, Variable],
    parameters: Mapping[str, Variable],
    log_likelihood_dtype: np.dtype,
) -> dict[str, Group]:
    """The groups that hold draws."""
    if SIMULATED.intersection(wanted) and sampler.why_not_redrawn:
        warn_user(
            "observations cannot be drawn, and the groups posterior_predictive, predictions and "
            f"prior_predictive are left out: {sampler.why_not_redrawn}"
        )
    draws = {**sampler.posterior(num_samples, wanted), **_prior(sampler, num_samples, wanted)}
    tables = {name: GroupVariables(labels) for name in PREDICTIVE}
    latents: dict[str, dict[str, Variable]] = {"posterior": {}, "prior": {}}
    densities: dict[str, Variable] = {}
    while draws:
        # One array at a time, so that no array is in memory twice for long.
        (group, name) = next(iter(draws))
        values = draws.pop((group, name))
        if group == "sample_stats":
            densities[name] = Variable(SAMPLE_DIMS, values[None])
        elif group == "log_likelihood":
            tables[group].add_log_likelihood(sites[name], values, log_likelihood_dtype)
        elif group == "marginal":
            site = sites[sampler.marginal_sites[name]]
            tables["log_likelihood"].add_marginal(name, site, values, log_likelihood_dtype)
        elif group == "posterior_predictive":
            tables["predictions"].add_missing_draws(sites[name], values)
            tables[group].add_predictions(sites[name], values)
        elif group == "prior_predictive":
            tables[group].add_draws(sites[name], values)
        else:
            latents[group][name] = sites[name].draws(values)
    for name, (of_parameter, values) in parameters.items():
        same = np.repeat(values[None, None], num_samples, axis=1)
        latents["posterior"][name] = Variable((*SAMPLE_DIMS, *of_parameter), same)
    return {
        **{name: labels.group(variables) for name, variables in latents.items()},
        **{name: labels.group(table.variables, table.coords) for name, table in tables.items()},
        "sample_stats": labels.group({**densities, **stats}),
    }


def _prior(sampler: Sampler, num_samples: int, groups: Collection[str]) -> Draws:
    try:
        return sampler.prior(num_samples, groups)
    except NotImplementedError as error:  # a prior without a sampler, such as an improper one
        warn_user(f"the prior of the model cannot be sampled, and is left out: {error}")
        return {}


def _observations(observed: Iterable[tuple[Site, np.ndarray]], labels: Labels) -> Group:
    table = GroupVariables(labels)
    for site, values in observed:
        table.add_observations(site, values)
    return labels.group(table.variables, table.coords)
