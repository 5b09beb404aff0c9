"""Tables of AnnData, which hold counts of cells beside what is known of cells and genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_expfam.deq.sparse_rows import is_sparse
from pyro_expfam.estimators.backed_tables import BackedTable, is_backed
from pyro_expfam.estimators.exponential_family_pca import ExponentialFamilyPCA
from pyro_expfam.families import Family
from pyro_expfam.families.chosen_family import named_family
from pyro_expfam.formula import Design, indicators
from pyro_expfam.table_labels import are_numbered

PARTS = ("X", "layers", "obs", "obsm", "varm", "uns", "var_names")
"""What an object must have to count as AnnData; the package itself is not imported."""


def fit_anndata(
    adata: Any,
    estimator: ExponentialFamilyPCA | None = None,
    *,
    layer: str | None = None,
    obsm: str | None = None,
    size_factors: str | None = None,
    covariates: Sequence[str] | str | None = None,
    key: str = "expfam",
) -> ExponentialFamilyPCA:
    """Fits an estimator to the raw counts of an AnnData object, and writes the results into it.

    It writes ``obsm["X_expfam"]``, the scores of the cells ``(N, l)``; ``obsm["X_expfam_cov"]``,
    their posterior covariances ``(N, l, l)``; ``varm["expfam_loading"]``, the components by gene
    ``(d, l)``; and ``uns["expfam"]``, the family, the explained deviance and how the fit ended.
    With covariates it also writes ``varm["expfam_coefficients"]``, a frame of genes by covariates.
    Functions of scanpy take the scores by ``use_rep="X_expfam"``. Sparse counts stay sparse. Counts
    on disk, of an object in backed mode, are read some rows at a time, once per sweep.

    Args:
        adata: an AnnData object, with cells in rows.
        estimator: the estimator to fit, by default one of two components with a family chosen by
            the counts.
        layer: the layer with the raw counts, by default ``adata.X``.
        obsm: the table of ``adata.obsm`` to fit in place of a layer, such as counts of proteins.
            Its components are ``uns["expfam"]["loading"]``, since its columns are no genes.
        size_factors: ``"total"`` for the total count of each cell, or a column of ``adata.obs``
            with positive numbers. Their logarithms, relative to their mean, are the offset.
        covariates: columns of ``adata.obs``, such as ``["batch"]``, or a formula of them, such as
            ``"~ batch + age"``, which takes ``formulaic``. Columns of text and categories become
            indicators of all levels but the first, with names such as ``batch[T.b]``. A column of
            3 to 10 different integers is ambiguous, and refused.
        key: what the names of the results are made from.

    Returns:
        The fitted estimator.

    Raises:
        TypeError: if ``adata`` is no AnnData object.
        ValueError: if there is no such layer or column, a covariate is missing or a column of few
            integers, size factors are not positive, or the family is of counts or bits and the
            table holds none, as after normalisation.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> from pyro_expfam.estimators import fit_anndata
        >>> cells = SimpleNamespace(
        ...     X=np.random.default_rng(0).poisson(2.0, (50, 6)), layers={}, obs={}, obsm={},
        ...     varm={}, uns={}, var_names=list("abcdef"),
        ... )
        >>> _ = fit_anndata(cells)
        >>> cells.obsm["X_expfam"].shape, cells.uns["expfam"]["family"]
        ((50, 2), 'Poisson()')
    """
    if not all(hasattr(adata, name) for name in PARTS):
        raise TypeError(f"adata must be an AnnData object, got {type(adata).__name__}")
    estimator = ExponentialFamilyPCA() if estimator is None else estimator
    place, table = _table(adata, layer, obsm)
    some = table.some()[0] if isinstance(table, BackedTable) else table
    _check_raw(estimator.family, some, place, adata)
    offset = None if size_factors is None else _offset(adata, table, size_factors)
    known = None if covariates is None else _covariates(adata, covariates)
    if isinstance(table, BackedTable):
        scores, covariance = _of_backed(estimator, table, offset, known)
    else:
        estimator.fit(table, offset=offset, covariates=known)
        scores, covariance = estimator.transform(table, offset, covariates=known, return_cov=True)
    adata.obsm[f"X_{key}"], adata.obsm[f"X_{key}_cov"] = scores, covariance
    adata.uns[key] = _record(estimator, layer, obsm, size_factors, known)
    loading = np.ascontiguousarray(estimator.components_.T)
    of_covariates = None
    if known is not None:
        of_covariates = type(known)(estimator.coefficients_, columns=known.columns)
    if obsm is None:
        if not are_numbered(adata.var_names):
            estimator.guide_.name_columns(list(adata.var_names))
        adata.varm[f"{key}_loading"] = loading
        if of_covariates is not None:
            adata.varm[f"{key}_coefficients"] = of_covariates.set_axis(list(adata.var_names))
    else:
        adata.uns[key]["loading"] = loading
        if of_covariates is not None:
            adata.uns[key]["coefficients"] = of_covariates
    return estimator


def _of_backed(
    estimator: ExponentialFamilyPCA, table: BackedTable, offset: np.ndarray | None, known: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Fits a table on disk; scores and covariances of its rows."""
    table.offset = offset
    table.covariates = None if known is None else known.to_numpy()
    some, numbers = table.some()
    of_some = (None if x is None else x[numbers] for x in (offset, table.covariates))
    estimator._fit_batches(table, table.num_rows, some, *of_some)
    found = [
        estimator.transform(
            table.read(rows),
            None if offset is None else offset[rows],
            covariates=None if known is None else known.iloc[rows],
            return_cov=True,
        )
        for rows in table.slices
    ]
    scores, covariances = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(covariances)


def _record(
    estimator: ExponentialFamilyPCA,
    layer: str | None,
    obsm: str | None,
    size_factors: str | None,
    known: Any,
) -> dict[str, Any]:
    """What ``uns`` keeps of a fit: plain values, which AnnData can write."""
    ratios = estimator.explained_deviance_ratio_
    ended = "came to rest" if estimator.converged_ else "did not come to rest"
    reason = estimator.family_reason_ and f" ({estimator.family_reason_})"
    names = [] if known is None else [str(name) for name in known.columns]
    beside = ""
    if size_factors is not None:
        which = "total counts" if size_factors == "total" else f"obs[{size_factors!r}]"
        beside += f" The logarithms of size factors, from {which}, are the offset."
    if names:
        beside += f" Covariates with coefficients per gene: {', '.join(names)}."
    report = (
        f"{len(ratios)} components of {estimator.family_}{reason} explain "
        f"{', '.join(f'{x:.1%}' for x in ratios)} of the deviance"
        f"{' beyond covariates' if names else ''}.{beside} "
        f"The fit {ended} after {estimator.n_iter_} sweeps."
    )
    return {
        "report": report,
        "family": str(estimator.family_),
        "family_reason": estimator.family_reason_,
        "layer": layer or ("X" if obsm is None else ""),
        "obsm": obsm or "",
        "size_factors": size_factors or "",
        "covariates": names,
        "explained_deviance_ratio": ratios,
        "intercept": estimator.intercept_,
        "latent_precision": estimator.latent_precision_,
        "converged": bool(estimator.converged_),
        "n_iter": int(estimator.n_iter_),
    }


def _table(adata: Any, layer: str | None, obsm: str | None) -> tuple[str, Any]:
    if layer is not None and obsm is not None:
        raise ValueError(f"layer and obsm are two tables, got {layer!r} and {obsm!r}: pass one")
    if layer is not None and layer not in adata.layers:
        raise ValueError(f"layer must be one of {sorted(adata.layers)}, got {layer!r}")
    if obsm is not None and obsm not in adata.obsm:
        raise ValueError(f"obsm must be one of {sorted(adata.obsm)}, got {obsm!r}")
    if obsm is not None:
        place, table = f"adata.obsm[{obsm!r}]", adata.obsm[obsm]
        return place, table if is_sparse(table) else np.asarray(table)
    place = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    table = adata.X if layer is None else adata.layers[layer]
    if table is None:
        raise ValueError(f"{place} must hold counts, got None: pass layer=")
    if is_backed(table):
        return place, BackedTable(table, place)
    return place, table


def _check_raw(family: Family | str, table: Any, place: str, adata: Any) -> None:
    """Raises an error if a family of whole numbers meets numbers that are not whole."""
    if family != "auto":
        law = family if isinstance(family, Family) else named_family(family)
        if not law.support.is_discrete:
            return
    values = table.data if is_sparse(table) else table
    # The estimator knows what NaN is.
    broken = values[(values != np.round(values)) & ~np.isnan(values)]
    if len(broken):
        logged = ", after log1p" if "log1p" in adata.uns else ""
        raise ValueError(
            f"{place} must hold raw counts, got {float(broken.flat[0]):g}: it seems to be "
            f"normalised{logged}. Pass the layer of the raw counts, as layer='counts', or an "
            "estimator of a family of real numbers"
        )


def _covariates(adata: Any, covariates: Sequence[str] | str) -> Any:
    """Covariates of the cells as a frame, ``(N, p)``."""
    if isinstance(covariates, str):
        return Design(covariates, adata.obs)(adata.obs)
    unknown = [name for name in covariates if name not in adata.obs]
    if unknown:
        raise ValueError(f"covariates must be columns of adata.obs, got {unknown}")
    frame = adata.obs[list(covariates)]
    missing = [name for name in frame if frame[name].isna().any()]
    if missing:
        raise ValueError(f"covariates must be there for every cell, got missing ones in {missing}")
    return indicators(frame)


def _offset(adata: Any, table: Any, name: str) -> np.ndarray:
    """The logarithms of size factors relative to their mean, ``(N, 1)``."""
    if name != "total" and name not in adata.obs:
        raise ValueError(f"size_factors must be 'total' or a column of adata.obs, got {name!r}")
    sizes = np.asarray(table.sum(1) if name == "total" else adata.obs[name], dtype=np.float64)
    sizes = sizes.reshape(-1, 1)
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        row = int(np.argmin(np.isfinite(sizes) & (sizes > 0)))
        raise ValueError(
            f"size_factors must be positive, got {float(sizes[row, 0]):g} in row {row}: leave "
            "such cells out"
        )
    found: np.ndarray = np.log(sizes / sizes.mean())
    return found
