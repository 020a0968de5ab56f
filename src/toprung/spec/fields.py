"""The base class of a sweep's parts, and the types of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from toprung.errors import UserError, did_you_mean
from toprung.metric_names import CLASSIFICATION_METRICS, metric_problem
from toprung.validation import format_validation_error


def _dotted_name(value: object) -> object:
    """Replace a function by the dotted name under which every worker imports it; leave any other value unchanged."""
    if callable(value):
        return f"{value.__module__}:{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value


DottedName = Annotated[
    str,
    BeforeValidator(_dotted_name),
    Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*)?$"),
]


def _metric_name(value: str) -> str:
    if problem := metric_problem(value):
        raise ValueError(problem)
    return value


MetricName = Annotated[str, AfterValidator(_metric_name)]
WeightsName = Annotated[str, Field(pattern=r"^[a-z0-9]\w*(\.\w+)?$")]


def _classification_metric(value: str) -> str:
    if value not in CLASSIFICATION_METRICS:
        hint = did_you_mean(value, CLASSIFICATION_METRICS).strip() or f"there are {', '.join(CLASSIFICATION_METRICS)}"
        raise ValueError(f"toprung computes no such metric ({hint}); a metric of the loop itself is not listed here")
    return value


ClassificationMetric = Annotated[str, AfterValidator(_classification_metric)]

Hyperparameters = dict[str, bool | int | float | str | None]


class SpecModel(BaseModel):
    """Base class of a sweep's parts: frozen, without unknown fields, and validated when copied."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields replaced and validated (pydantic's own `model_copy` does not validate).

        Raises:
            UserError: a field is unknown or out of range.
        """
        del deep  # all parts are frozen, so a shallow copy shares nothing mutable
        values = {name: getattr(self, name) for name in self.model_fields_set}
        try:
            return type(self).model_validate({**values, **(update or {})})
        except ValidationError as error:
            raise UserError(format_validation_error(error, type(self))) from None
