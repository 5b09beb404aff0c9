"""The names of a block's sites, and what is written into their ``infer``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from pyro_expfam.families import Family
from pyro_expfam.families.kinds import places
from pyro_expfam.models.annotations import CoefficientSite, infer
from pyro_expfam.models.priors import GaussianPrior
from pyro_expfam.models.row_latents import RowLatents


class NamedSites(RowLatents):
    """The part of a block that names its sites, their dimensions and the columns of the table."""

    @property
    def name(self) -> str:
        """The name of the block in its model, empty where it is the model."""
        return self.site_name("").removesuffix(".")

    def site_name(self, attribute: str) -> str:
        """The name in the model of a site of the block, such as ``"z"``."""
        return self._pyro_get_fullname(attribute)

    def _infer_config(
        self, site: Any, owner: NamedSites | None = None, covariate_names: Any = None
    ) -> Any:
        attribute = site["name"].removeprefix(self.site_name(""))
        prior = self._pyro_samples.get(attribute)
        is_known = attribute in ("intercept", "coefficients")
        starts_at_zero = is_known and isinstance(prior, GaussianPrior)
        record = CoefficientSite(self, attribute, starts_at_zero)
        has_levels = self._known_family.has_levels
        predictor = "predictor" if has_levels else "feature"
        all_dims: dict[str, tuple[str, ...]] = {
            "loading": (predictor, "latent"),
            "intercept": (predictor,),
            "coefficients": (predictor, "covariate"),
        }
        dims = all_dims.get(attribute)
        if self.linear_map is not None and attribute == "loading":
            dims = self.linear_map.kernel_dims
        named: dict[str, Any] = {}
        if dims is not None:
            owners = {"latent": owner or self}
            named["event_dims"] = [owners.get(dim, self).site_name(dim) for dim in dims]
            if has_levels:
                levels = levels_of(self._known_family, self.num_features)
                of_columns = (self.site_name("feature"), levels["levels"])
                named["level_dims"] = {self.site_name(predictor): of_columns}
                named |= levels
        if covariate_names is not None:
            named["names"] = {self.site_name("covariate"): covariate_names}
        return {**site["infer"], **infer(record, **named)}

    def _infer_of_parameter(self, name: str) -> Any:
        """The annotations of the site of a learnt parameter."""
        attribute = f"family_{name}"
        dims = []
        if self._point(name).dim():
            of_columns = self._names_of_columns().get("columns_of_parameters", {})
            of_columns = of_columns.get(self.site_name(attribute))
            dims = [self.site_name("feature") if of_columns is None else of_columns[0]]
        return infer(CoefficientSite(self, attribute), event_dims=dims)

    def _argument_dims(self, owner: NamedSites) -> dict[str, tuple[str, str]]:
        """The annotation of the dimensions of covariates, for a block whose latents have names."""
        if not self.num_covariates:
            return {}
        return {"covariates": (owner.site_name("row"), self.site_name("covariate"))}

    def _learnt_parameters(self, sampled: Collection[str] = ()) -> dict[str, Tensor]:
        """The learnt parameters of the family but for sampled ones, by their names in the model."""
        names = [f"family_{name}" for name in self._learnt_of_family if name not in sampled]
        return {self.site_name(name): getattr(self, name) for name in names}

    def _names_of_columns(self) -> dict[str, Any]:
        """The annotations of the names and kinds of columns, where the family knows them."""
        family = self._known_family
        if family.num_columns is None:
            return {}
        kinds = [""] * family.num_columns
        for kind in family.kinds(family.num_columns):
            for place in places(kind.columns, family.num_columns):
                kinds[place] = kind.name
        feature = self.site_name("feature")
        found: dict[str, Any] = {"kinds": {feature: (self.site_name("kind"), kinds)}}
        if family.column_names is not None:
            found["columns"] = list(family.column_names)
        found["columns_of_parameters"] = {
            self.site_name(f"family_{kind.name}_{name}"): (
                self.site_name(f"{kind.name}_column"),
                feature,
                places(kind.columns, family.num_columns),
            )
            for kind in family.kinds(family.num_columns)
            for name in kind.family.parameter_names
        }
        return found


def levels_of(family: Family, num_features: int) -> dict[str, list[int]]:
    """The annotation of the number of levels of each column, for categories."""
    if not family.has_levels:
        return {}
    return {"levels": family.column_of_predictor(num_features).bincount().tolist()}
