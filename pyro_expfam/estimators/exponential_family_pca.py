"""Exponential-family PCA as an estimator of scikit-learn."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_expfam.checks import Report, check
from pyro_expfam.deq.covariates import as_covariates
from pyro_expfam.deq.sparse_rows import is_sparse
from pyro_expfam.diagnostics import to_arviz
from pyro_expfam.estimators.frames import (
    coded,
    filled_frame,
    has_kinds,
    in_order_of,
    is_frame,
    levels_of,
    with_categories,
)
from pyro_expfam.estimators.rows_of_covariates import covariates_of_rows, design_of
from pyro_expfam.estimators.sparse_tables import (
    as_dense,
    as_scipy,
    choose_sparse_family,
    some_rows,
)
from pyro_expfam.estimators.stochastic_steps import train_on_batch
from pyro_expfam.families import Columns, Family
from pyro_expfam.families.chosen_family import choose_family, named_family
from pyro_expfam.guides import LaplaceGuide
from pyro_expfam.loadings import explained_deviance
from pyro_expfam.models import ExpFamPCA
from pyro_expfam.prediction import impute
from pyro_expfam.runtime.ownership import LOCK
from pyro_expfam.runtime.progress import tell
from pyro_expfam.table_frames import as_pandas

DTYPES = ["float32", "float64"]

FIRST_RATE = 0.005
"""The step size of the second batch of ``partial_fit``."""


class ExponentialFamilyPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""PCA of bits, counts, proportions and real numbers, in the manner of scikit-learn.

    Every entry of a table is an observation of a family, with the linear predictor
    :math:`\eta = C^\top s + b`. The rows of ``C`` are orthonormal components, and ``s`` are the
    scores of a row. The fit maximises the evidence of the table: scores are integrated out, so that
    their scale and the noise are learnt. ``transform`` finds the scores of new rows at their
    posterior mode, which shrinks scores that a row says little about.

    For a Gaussian table the linear predictor is in units of the table. Where noise is small beside
    the scores, the scores equal the scores of
    :class:`~sklearn.decomposition.PCA` up to sign. With ``family=Gaussian("per column")`` the model
    is factor analysis.

    A data frame may have columns of different kinds. ``family="auto"`` then takes a family for each
    column, as :meth:`Columns.from_frame <pyro_expfam.families.Columns.from_frame>` does, and
    ``family=Columns({...})`` says them by name. A category of ``K`` levels has ``K`` linear
    predictors, so that ``components_``, ``intercept_`` and the output of ``inverse_transform`` have
    as many columns for it. A sparse matrix of SciPy is never made dense as a whole; what is not
    stored is zero.

    NaN is a missing entry. It takes no part in the fit and in ``transform``, and ``impute`` fills
    it. ``offset``, ``mask`` and ``weights`` describe entries, and ``covariates`` are known numbers
    of the rows, such as indicators of a batch, each with a coefficient in every column. Inside of a
    pipeline or a search they are passed by the metadata routing of scikit-learn.

    Args:
        n_components: scores of a row.
        family: ``"auto"``, the name of a family such as ``"negative_binomial"``, or a
            :class:`~pyro_expfam.families.Family`. ``"auto"`` takes the family from the values of
            the table, or from the dtypes and values of each column of a mixed data frame, and
            :attr:`family_reason_` says why; in a terminal or a notebook it is printed. What may as
            well be something else, such as amounts below 1 or whole numbers in the millions, is
            refused in words.
        latent_precision: the precision of the latents. Below 1 the loading and the scores are
            shrunk less.
        loading_scale: the prior standard deviation of the entries of the loading: a number,
            ``"weak"`` for the family's own, or None for none.
        intercept_scale: the prior standard deviation of the intercepts: a number, ``"weak"`` for
            the family's own, or None for none.
        coefficient_scale: the prior standard deviation of the coefficients of covariates: a number,
            one per covariate, ``"weak"`` for a quarter of the scale of the intercepts, or None for
            none.
        formula: makes covariates of the columns of a data frame, such as ``"~ batch + age"``, by
            :class:`~pyro_expfam.Design`. ``covariates`` is then a frame with these columns, whose
            coding in the fit is kept for new rows. None for covariates that are numbers.
        missing: ``"nan"``, where NaN is a missing entry, or None, where NaN is an error.
        max_iter: the most sweeps over the table.
        tol: the fit stops when a sweep promises less than this part of the objective.
        random_state: the seed of ``sample``, and of the steps of ``partial_fit``.

    Attributes:
        components_: orthonormal components, ``(n_components, n_features)``, by falling explained
            deviance. The largest entry of each is positive.
        intercept_: linear predictors of a row with scores of zero, ``(n_features,)``.
        coefficients_: coefficients of covariates, ``(n_features, n_covariates)``, in the units of
            the intercepts; without columns if there are no covariates.
        design_: the :class:`~pyro_expfam.Design` of the formula, whose ``names`` name the
            coefficients; None without a formula.
        latent_precision_: the prior precision of each score, ``(n_components,)``.
        explained_deviance_ratio_: the part of the deviance that each component explains,
            ``(n_components,)``; they add up to what all of them explain. In a Gaussian table it is
            the part of the variance. In a sparse table of more than 8 million entries it is taken
            from evenly spaced rows.
        family_: the family, with its learnt parameters.
        family_reason_: why ``family="auto"`` chose it, a line per column of a mixed frame; empty
            otherwise.
        n_iter_: sweeps of the fit.
        converged_: whether the fit came to rest.
        model_: the Pyro model, an :class:`~pyro_expfam.ExpFamPCA`.
        guide_: the fitted :class:`~pyro_expfam.LaplaceGuide`, which leads on to Pyro.
        n_features_in_: columns of the table.
        feature_names_in_: their names, if the table was a data frame with text labels.

    Raises:
        ValueError: if a parameter is out of range, or the table does not fit the family.

    Example:
        >>> import numpy as np
        >>> import pyro_expfam as pef
        >>> random = np.random.default_rng(0)
        >>> y = random.poisson(np.exp(random.normal(size=(100, 1)) @ random.normal(size=(1, 8))))
        >>> pca = pef.ExponentialFamilyPCA(n_components=1).fit(y)
        >>> pca.family_
        Poisson()
        >>> pca.transform(y).shape, pca.components_.shape
        ((100, 1), (1, 8))
    """

    def __init__(
        self,
        n_components: int = 2,
        family: Family | str = "auto",
        *,
        latent_precision: float = 1.0,
        loading_scale: float | str | None = "weak",
        intercept_scale: float | str | None = "weak",
        coefficient_scale: Any = "weak",
        formula: str | None = None,
        missing: str | None = "nan",
        max_iter: int = 500,
        tol: float = 1e-7,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.family = family
        self.latent_precision = latent_precision
        self.loading_scale = loading_scale
        self.intercept_scale = intercept_scale
        self.coefficient_scale = coefficient_scale
        self.formula = formula
        self.missing = missing
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    # ---------------------------------------------------------------- fitting

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Self:
        """Fits components, intercepts and the parameters of the family to a table.

        Args:
            X: the table, ``(N, d)``: an array, a data frame or a tensor.
            y: ignored; it is there for pipelines.
            offset: known part of the linear predictors, broadcastable to ``(N, d)``, such as the
                logarithm of an exposure, ``(N, 1)``.
            mask: booleans broadcastable to ``(N, d)``, False for a missing entry.
            weights: non-negative weights of entries, broadcastable to ``(N, d)``; an entry of
                weight 2 counts as two observations.
            covariates: known numbers of each row, ``(N, p)``: an array or a data frame. With a
                formula it is a data frame with the columns of the formula, ``(N, anything)``.
        """
        del y
        X = as_pandas(X)
        table, mask = self._table(X, mask, reset=True)
        self.design_ = design_of(self.formula, covariates)
        covariates = covariates_of_rows(covariates, X, self.design_)
        self._check_parameters(table)
        # Threads share Pyro's handlers and PyTorch's random numbers.
        with LOCK, torch.random.fork_rng(devices=[]):
            self._begin(X, table, mask, covariates)
            torch.manual_seed(self._seed())
            fit = self.guide_.fit(
                table,
                offset,
                mask,
                weights,
                covariates,
                max_sweeps=self.max_iter,
                tol=self.tol,
                progress=False,
            )
        self.n_iter_ = max(fit.sweeps[-1].number, 1)
        self.converged_ = fit.converged
        self.n_samples_seen_ = table.shape[0]
        self._read_components(table, offset, mask, weights, covariates)
        return self

    def fit_transform(
        self,
        X: Any,
        y: Any = None,
        *,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Any:
        """Fits to a table and returns the scores of its rows; arguments are as in :meth:`fit`."""
        del y
        entries = {"offset": offset, "mask": mask, "weights": weights, "covariates": covariates}
        return self.fit(X, **entries).transform(X, **entries)

    def partial_fit(
        self,
        X: Any,
        y: Any = None,
        *,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Self:
        """Trains on one more batch of rows, as tables beyond memory or streams bring them.

        The first batch is fitted as a table of its own, so that it should not be small. Every later
        batch is worth some steps of Adam on the evidence of all rows seen so far, which the batch
        stands for. Step sizes fall with the number of batches. Go over the batches several times
        where you can. A table on disk is fitted exactly by ``guide.fit(loader)`` of
        :class:`~pyro_expfam.LaplaceGuide`.

        Args:
            X: rows of the table, ``(n, d)``.
            y: ignored.
            offset: as in :meth:`fit`.
            mask: as in :meth:`fit`.
            weights: as in :meth:`fit`.
            covariates: as in :meth:`fit`.
        """
        del y
        if not hasattr(self, "guide_"):
            return self.fit(X, offset=offset, mask=mask, weights=weights, covariates=covariates)
        table, mask = self._table(X, mask)
        if not isinstance(table, Tensor):
            table = torch.as_tensor(table.toarray())
        self.n_samples_seen_ += len(table)
        self._batches += 1
        entries = (
            table.to(self._dtype()),
            offset,
            mask,
            weights,
            covariates_of_rows(covariates, X, self.design_),
        )
        train_on_batch(self.guide_, entries, self.n_samples_seen_, FIRST_RATE / self._batches**0.5)
        self._read_components(*entries)
        return self

    def _fit_batches(
        self, batches: Any, num_rows: int, some: Any, offset: Any = None, covariates: Any = None
    ) -> None:
        """Fits a table in batches.

        Args:
            batches: as ``guide.fit`` takes them.
            num_rows: the rows of all batches.
            some: some of the rows, from which the family is chosen and the fit is described.
            offset: the offset of these rows.
            covariates: the covariates of these rows.
        """
        table, mask = self._table(some, None, reset=True)
        self.design_ = None
        self._check_parameters(table)
        with LOCK, torch.random.fork_rng(devices=[]):
            self._begin(some, table, mask, covariates)
            torch.manual_seed(self._seed())
            fit = self.guide_.fit(batches, max_sweeps=self.max_iter, tol=self.tol, progress=False)
        self.n_iter_ = max(fit.sweeps[-1].number, 1)
        self.converged_ = fit.converged
        self.n_samples_seen_ = num_rows
        self._read_components(table, offset, mask, None, covariates)

    def _begin(self, X: Any, table: Any, mask: Tensor | None, covariates: Any) -> None:
        """Makes the model and its guide, untrained."""
        settings: dict[str, Any] = {}
        if covariates is not None:
            shape = np.shape(covariates)
            if len(shape) != 2 or shape[1] == 0:
                raise ValueError(f"covariates must have shape (N, p), got {shape}")
            scale = self.coefficient_scale
            settings = {"num_covariates": shape[1], "coefficient_scale": scale}
        family, self.family_reason_ = self._choose(X, table, mask)
        self._batches = 0
        self.model_ = ExpFamPCA(
            family,
            table.shape[1],
            int(self.n_components),
            latent_precision=self.latent_precision,
            loading_scale=self.loading_scale,  # type: ignore[arg-type]
            intercept_scale=self.intercept_scale,  # type: ignore[arg-type]
            missing=self.missing,  # type: ignore[arg-type]
            **settings,
        ).to(torch.float32 if table.dtype in (np.float32, torch.float32) else torch.float64)
        self.guide_ = LaplaceGuide(self.model_)

    def _check_parameters(self, table: Any) -> None:
        if isinstance(self.n_components, bool) or not isinstance(self.n_components, Integral):
            raise TypeError(f"n_components must be a whole number, got {self.n_components!r}")
        if not self.n_components >= 1:
            raise ValueError(f"n_components must be at least 1, got {self.n_components}")
        if self.n_components > table.shape[1]:
            raise ValueError(
                f"n_components must be at most the number of features, got {self.n_components} "
                f"for a table of {table.shape[1]} feature(s)"
            )
        if self.missing not in ("nan", None):
            raise ValueError(f"missing must be 'nan' or None, got {self.missing!r}")
        if table.shape[0] < 2:
            raise ValueError(f"X must have at least 2 rows, got {table.shape[0]} sample(s)")

    def _choose(self, X: Any, table: Any, mask: Tensor | None) -> tuple[Family, str]:
        if isinstance(self.family, Columns) and is_frame(X):
            return in_order_of(X, self.family), ""
        if isinstance(self.family, Family):
            return self.family, ""
        if self.family != "auto":
            return named_family(self.family), ""
        if is_frame(X) and has_kinds(X):
            columns = Columns.from_frame(X)
            return columns, columns.describe()
        if isinstance(table, Tensor):
            values = table if mask is None else table.masked_fill(~mask, torch.nan)
            names = list(X.columns) if is_frame(X) else None
            family, reason = choose_family(values.numpy(), names)
        else:
            family, reason = choose_sparse_family(table)
        tell(f"family='auto' is {family}: {reason}")
        return family, reason

    def _read_components(self, table: Any, *entries: Any) -> None:
        """Sets what the fit has learnt, in the basis of the orthonormal components."""
        explained = explained_deviance(self.guide_, *some_rows(table, *entries))
        self.family_ = _as_values(self.model_.family)
        self._components = explained.components
        dtype, unit = self._numpy_dtype(), self.family_.predictor_unit.double()
        intercept = self.guide_.intercept.double()
        coefficients = intercept.new_zeros(len(intercept), 0)
        if self.model_.num_covariates:
            of_covariates = self.guide_.covariate_coefficients.double()
            coefficients = (unit[:, None] if unit.dim() else unit) * of_covariates
        for name, value in {
            "components_": self._components.rows,
            "intercept_": unit * intercept,
            "coefficients_": coefficients,
            "latent_precision_": 1 / self._components.variances,
            "explained_deviance_ratio_": explained.by_component,
        }.items():
            setattr(self, name, value.detach().numpy().astype(dtype))

    # ---------------------------------------------------------------- rows

    def transform(
        self,
        X: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        return_cov: bool = False,
    ) -> Any:
        """The scores of rows, ``(N, n_components)``, at their posterior mode.

        Args:
            X: the table, ``(N, d)``.
            offset: as in :meth:`fit`.
            mask: as in :meth:`fit`.
            weights: as in :meth:`fit`.
            covariates: as in :meth:`fit`.
            return_cov: whether to return the posterior covariances of the scores too,
                ``(N, n_components, n_components)``.
        """
        check_is_fitted(self)
        table, mask = self._table(X, mask)
        with torch.no_grad():
            covariates = covariates_of_rows(covariates, X, self.design_)
            posterior = self.guide_.posterior(table, offset, mask, weights, covariates)
            scores = self._scores(posterior.mean)
            if not return_cov:
                return scores
            matrix = self._components.to_scores
            covariance = matrix @ posterior.covariance_matrix.double() @ matrix.mT
        return scores, covariance.to(self._dtype()).numpy()

    def _scores(self, z: Tensor) -> np.ndarray:
        return (z.double() @ self._components.to_scores.mT).to(z.dtype).numpy()

    def inverse_transform(self, X: Any, offset: Any = None, covariates: Any = None) -> np.ndarray:
        """The expected table ``(N, d)`` of rows with given scores.

        Args:
            X: the scores, ``(N, n_components)``.
            offset: as in :meth:`fit`.
            covariates: as in :meth:`fit`; other ones than the rows had, such as one batch for all,
                give the table that they would have had.
        """
        check_is_fitted(self)
        # Frames and memory maps give arrays that cannot be written to, which PyTorch warns of.
        scores = torch.as_tensor(np.require(X, requirements="W"))
        if scores.dim() != 2 or scores.shape[1] != len(self.components_):
            raise ValueError(
                f"X must be scores (N, {len(self.components_)}), got shape {tuple(scores.shape)}"
            )
        with torch.no_grad():
            eta = self._predictor(scores.double(), offset, covariates)
            return self.model_.family.expected_y(eta).to(self._dtype()).numpy()

    def _predictor(self, scores: Tensor, offset: Any = None, covariates: Any = None) -> Tensor:
        z = (scores @ self._components.from_scores.mT).to(self._dtype())
        eta = z @ self.guide_.loading.mT + self.guide_.intercept
        if self.model_.num_covariates or covariates is not None:
            covariates = covariates_of_rows(covariates, None, self.design_)
            self.guide_.check_covariates("z", covariates)
            x = as_covariates(covariates, self.model_.num_covariates, len(z), eta)
            if x is not None:
                eta = eta + x @ self.guide_.covariate_coefficients.mT
        return eta if offset is None else eta + torch.as_tensor(np.asarray(offset)).to(eta)

    def impute(
        self,
        X: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_draws: int = 200,
    ) -> Any:
        """The table with its missing entries filled, as an array or a data frame like ``X``.

        A missing number becomes the mean of its posterior predictive distribution given the rest of
        its row, and a missing category the most probable one. :func:`pyro_expfam.impute` with
        :attr:`guide_` gives intervals and draws too.

        Args:
            X: the table, ``(N, d)``, with NaN or a missing value of pandas where an entry is
                missing.
            offset: as in :meth:`fit`.
            mask: as in :meth:`fit`; what it hides is filled too.
            weights: as in :meth:`fit`.
            covariates: as in :meth:`fit`.
            num_draws: draws of the scores of each row, over which means are taken.
        """
        check_is_fitted(self)
        X = as_pandas(X)
        table, there = self._table(X, mask)
        if not isinstance(table, Tensor):
            raise TypeError("X must be dense to be filled, got a sparse one, which lacks no entry")
        if there is None:
            return X.copy() if is_frame(X) else table.numpy().copy()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed())
            entries = (offset, there, weights, covariates_of_rows(covariates, X, self.design_))
            found = impute(self.guide_, table, *entries, num_draws=num_draws)
        if not is_frame(X):
            return found.filled.numpy()
        missing = ~there.expand(table.shape)
        return filled_frame(X, found.filled, missing, self._categories)

    def score_samples(
        self,
        X: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> np.ndarray:
        """The log evidence of each row in nats, ``(N,)``, with the scores integrated out."""
        check_is_fitted(self)
        table, mask = self._table(X, mask)
        with torch.no_grad():
            entries = (offset, mask, weights, covariates_of_rows(covariates, X, self.design_))
            return self.guide_.log_evidence(table, *entries).numpy()

    def score(
        self,
        X: Any,
        y: Any = None,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> float:
        """The mean log evidence of a row in nats."""
        del y
        return float(self.score_samples(X, offset, mask, weights, covariates).mean())

    def sample(self, n_samples: int = 1, offset: Any = None, covariates: Any = None) -> np.ndarray:
        """Draws rows of a table ``(n_samples, d)`` from the fitted model, categories by number."""
        check_is_fitted(self)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self._seed())
            noise = torch.randn(n_samples, len(self.components_), dtype=torch.float64)
            scores = noise * self._components.variances.sqrt()
            eta = self._predictor(scores, offset, covariates)
            return self.model_.family.decode(self.model_.family.sample(eta)).numpy()

    def check(
        self,
        X: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
    ) -> Report:
        """What can be trusted in the fit: the report of :func:`pyro_expfam.check` on the table.

        A sparse table is made dense, if it has no more than 8 million entries.
        """
        check_is_fitted(self)
        table, mask = self._table(X, mask)
        table = as_dense(table, "check")
        y = self._labelled(X, table)
        entries = (offset, mask, weights, covariates_of_rows(covariates, X, self.design_))
        return check(self.model_, self.guide_, y, *entries)

    def to_arviz(
        self,
        X: Any,
        offset: Any = None,
        mask: Any = None,
        weights: Any = None,
        covariates: Any = None,
        num_samples: int = 1000,
    ) -> Any:
        """Posterior, predictions and log likelihood by :func:`pyro_expfam.to_arviz`.

        Latents and loading are in the basis of the Pyro model, not of the orthonormal components.
        A sparse table is made dense, if it has no more than 8 million entries.
        """
        check_is_fitted(self)
        table, mask = self._table(X, mask)
        table = as_dense(table, "to_arviz")
        return to_arviz(
            self.model_,
            self.guide_,
            self._labelled(X, table),
            offset,
            mask,
            weights,
            covariates_of_rows(covariates, X, self.design_),
            num_samples=num_samples,
        )

    def _labelled(self, X: Any, table: Any) -> Any:
        """A checked table with the labels of its frame, if it is one."""
        X = X if is_sparse(X) else as_pandas(X)
        if not is_frame(X):
            return table
        return X if self._categories is None else with_categories(X, self._categories)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _dtype(self) -> torch.dtype:
        return self.guide_.loading.dtype

    def _numpy_dtype(self) -> str:
        return str(self._dtype()).removeprefix("torch.")

    def _table(self, X: Any, mask: Any, reset: bool = False) -> tuple[Any, Tensor | None]:
        """The entries of a table, and which of them are there.

        A sparse table stays sparse, and all of its entries are there.
        """
        if isinstance(X, Tensor):
            X = X.detach().cpu()
            X = as_scipy(X) if is_sparse(X) else X.numpy()
        X = as_pandas(X)
        if reset:
            self._categories = levels_of(X)
        if is_frame(X):
            names = getattr(self, "feature_names_in_", None)
            is_known = not reset and (names is None or list(X.columns) == list(names))
            if reset and isinstance(self.family, str) and self.family == "auto" and has_kinds(X):
                # One error names all columns whose family cannot be told, texts among them.
                Columns.from_frame(X)
            known = self._categories or [None] * X.shape[1]
            X = coded(X, known if is_known else None)
        values = validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan" if self.missing == "nan" else True,
            ensure_min_samples=1,
        )
        if is_sparse(values):
            if mask is not None:
                mask = torch.as_tensor(np.asarray(mask), dtype=torch.bool)
            return values, mask
        table = torch.as_tensor(np.require(values, requirements="W"))
        there = ~torch.isnan(table)
        if mask is not None:
            there = there & torch.as_tensor(np.asarray(mask), dtype=torch.bool)
        elif bool(there.all()):
            return table.contiguous(), None
        return table.contiguous(), there

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "nan"
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = list(DTYPES)
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)


def _as_values(family: Family) -> Family:
    """A family whose learnt parameters are numbers, without the way back to what they come from."""
    return family.with_parameters({name: x.detach() for name, x in family.parameters.items()})
