"""The sweep specification: `Sweep` and its parts, frozen pydantic models that round-trip through JSON.

A recipe is a function that returns a `Sweep`. Another recipe can derive from it with `model_copy(update=...)`, and the
command line overrides single fields with `--set asha.max_epochs=4` (overrides.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from toprung.errors import UserError, did_you_mean, pluralize
from toprung.metric_mode import infer_mode
from toprung.metric_names import CLASSIFICATION_METRICS as CLASSIFICATION_METRICS  # for recipes
from toprung.metric_names import DEFAULT_METRICS, metric_problem
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
        return _validated(type(self), {**values, **(update or {})})


P = TypeVar("P", bound=SpecModel)
T = TypeVar("T")


class Asha(SpecModel):
    """Early stopping by asynchronous successive halving (ASHA).

    Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning".
    """

    grace_epochs: int = Field(default=1, ge=1, description="the first epoch at which a trial may be stopped")
    max_epochs: int = Field(default=9, ge=1, description="the top rung: the full budget of a trial")
    reduction_factor: int = Field(default=3, ge=2, description="one in this many trials is promoted from a rung")
    audit_fraction: float = Field(
        default=0, ge=0, le=1, description="fraction of the trials to stop that train to the full budget instead"
    )

    @model_validator(mode="after")
    def _grace_below_max(self) -> Self:
        if self.grace_epochs > self.max_epochs:
            raise ValueError(f"grace_epochs ({self.grace_epochs}) is above max_epochs ({self.max_epochs})")
        return self

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials are compared, ending with the full budget: (1, 3, 9)."""
        lower_rungs = []
        rung = self.grace_epochs
        while rung < self.max_epochs:
            lower_rungs.append(rung)
            rung *= self.reduction_factor
        return (*lower_rungs, self.max_epochs)


class Search(SpecModel):
    """Settings of Optuna's sampler, all explicit, so that a changed default of Optuna changes no recipe."""

    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = Field(default=0, ge=0)
    num_startup_trials: int = Field(default=10, ge=1, description="number of random trials before TPE starts")
    multivariate: bool = True
    group: bool = True
    constant_liar: bool = True


class Resources(SpecModel):
    """Resources of one trial: the number of its workers, and what each worker uses."""

    cpus: float = Field(default=1, gt=0, description="CPUs of each worker")
    gpus: float = Field(default=0, ge=0, description="GPUs of each worker; below 1, several trials share a GPU")
    custom: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="custom resources of each worker, named as in `ray start --resources`"
    )
    label_selector: dict[str, str] = Field(
        default_factory=dict, description="labels that a node needs, each as v, !v, in(a,b) or !in(a,b)"
    )
    workers: int = Field(default=1, ge=1, description="number of processes that train a trial with DDP")

    @model_validator(mode="after")
    def _custom_beside_cpus_and_gpus(self) -> Self:
        for name, field in (("CPU", "cpus"), ("GPU", "gpus")):
            if name in self.custom:
                raise ValueError(f'custom cannot contain "{name}": use the field {field}')
        return self

    @model_validator(mode="after")
    def _whole_gpus_for_workers(self) -> Self:
        if self.workers > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus cannot be {self.gpus:g} with {self.workers} workers: NCCL needs a GPU for each")
        return self

    @model_validator(mode="after")
    def _whole_gpus_above_one(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus cannot be {self.gpus:g}: Ray assigns a fraction of one GPU or whole GPUs")
        return self

    @property
    def num_threads(self) -> int:
        """The number of threads that torch uses in each worker."""
        return max(1, math.floor(self.cpus))

    @property
    def bundles(self) -> tuple[dict[str, float], ...]:
        """The bundles of a trial's Ray placement group: one per worker, each on a single node."""
        bundle = {"CPU": self.cpus, "GPU": self.gpus, **self.custom}
        return tuple({name: amount for name, amount in bundle.items() if amount} for _ in range(self.workers))


class Stop(SpecModel):
    """Rules that end a sweep before its last trial; the first that holds ends it."""

    seconds: float | None = Field(default=None, gt=0, description="wall-clock time, summed over all resumptions")
    target: float | None = Field(default=None, description="a value of the metric that is good enough")
    plateau_trials: int | None = Field(default=None, ge=1, description="number of trials without a new best value")
    max_cost: float | None = Field(default=None, gt=0, description="cost at the prices below")
    cpu_price_per_hour: float = Field(default=0, ge=0, description="price of one CPU")
    gpu_price_per_hour: float = Field(default=0, ge=0, description="price of one GPU")

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Self:
        if self.max_cost is not None and not (self.cpu_price_per_hour or self.gpu_price_per_hour):
            raise ValueError("max_cost needs cpu_price_per_hour or gpu_price_per_hour")
        return self


class Data(SpecModel):
    """The prepared dataset and its split into training and validation. A sweep never reads the test split."""

    name: str = Field(default="digits", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    folder: str | None = Field(
        default=None, min_length=1, description="folder of the raw files, for `toprung data prepare RECIPE`"
    )
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)
    max_train: int | None = Field(default=None, ge=1, description="maximum number of training images")
    max_val: int | None = Field(default=None, ge=1, description="maximum number of validation images")
    num_folds: int | None = Field(
        default=None, ge=2, description="cross-validate a controlled experiment: each seed validates on one fold"
    )
    groups: bool = Field(
        default=True, description="keep each group, such as a patient's images, in one part if the dataset has groups"
    )
    placement: Literal["auto", "object_store", "mmap"] = Field(
        default="auto", description="images in shared memory or mapped from disk; auto: depending on their size"
    )


Hyperparameters = dict[str, bool | int | float | str]

# Hyperparameters that only the sweep sets (not a space, constants, DEFAULTS or an experiment), each with its field.
RESERVED_HYPERPARAMETERS = {"num_epochs": "asha.max_epochs", "seed": "seed", "experiment": "experiments"}


class Experiment(SpecModel):
    """A named configuration of a controlled experiment.

    Hyperparameters that it does not set come from the sweep's constants or the trainer's defaults.
    """

    name: str = Field(pattern=r"^\S(.{0,98}\S)?$", description='such as "A baseline"; a tag of its runs in MLflow')
    config: Hyperparameters = Field(default_factory=dict, description="hyperparameters by the trainer's names")

    @model_validator(mode="after")
    def _only_hyperparameters(self) -> Self:
        for name in RESERVED_HYPERPARAMETERS:
            if name in self.config:
                raise ValueError(f'the experiment "{self.name}" cannot set "{name}": the sweep does')
        return self


class Sweep(SpecModel):
    """A sweep: the trainer, the search space, the budget and the metric.

    Either a searcher proposes configurations from a space and ASHA stops poor ones early, or the sweep is a controlled
    experiment: each of its `experiments` is trained with each of its `seeds` for the full budget.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="the experiment's name in MLflow")
    trainer: DottedName
    space: DottedName | None = Field(default=None, description="the search space; not needed with experiments")
    constants: Hyperparameters = Field(default_factory=dict, description="hyperparameters held fixed in every trial")
    experiments: tuple[Experiment, ...] = Field(default=(), description="configurations to train instead of a search")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="the seeds of every experiment")
    data: Data = Data()
    weights: tuple[WeightsName, ...] = Field(
        default=(), description="pretrained weights in data/weights that trials use, by timm's name of the network"
    )
    metric: MetricName = Field(default="val/accuracy", description="name of the metric that the loop reports")
    mode: Literal["max", "min"] = Field(default="max", description="by default inferred from the metric's name")
    metrics: tuple[ClassificationMetric, ...] = Field(
        default=DEFAULT_METRICS,
        description="metrics that `session.metrics()` asks the loop to compute, besides `metric`",
    )
    num_trials: int = Field(default=48, ge=1, description="with experiments, their number times the number of seeds")
    asha: Asha = Asha()
    stop: Stop = Stop()
    search: Search = Search()
    resources: Resources = Resources()
    max_concurrent_trials: int | None = Field(default=None, ge=1, description="None: as many as fit")
    seed: int = Field(default=0, ge=0, description="seed of initial weights, shuffling and augmentation")
    storage: str = Field(default="runs", min_length=1, description="where sweeps are stored: folder, s3:// or gs://")

    @model_validator(mode="after")
    def _mode_of_metric(self) -> Self:
        if "mode" not in self.model_fields_set:
            object.__setattr__(self, "mode", infer_mode(self.metric) or "max")  # derived, so not in model_fields_set
        return self

    @model_validator(mode="after")
    def _searched_or_controlled(self) -> Self:
        if not self.experiments:
            if self.seeds:
                raise ValueError("seeds are for experiments, but there are none; a search has a single seed")
            if self.data.num_folds is not None:
                raise ValueError("data.num_folds is for experiments, but there are none; a search has a single split")
            if self.space is None:
                raise ValueError("give a space to search or experiments to train")
            return self
        if (name := _first_duplicate(experiment.name for experiment in self.experiments)) is not None:
            raise ValueError(f'two experiments are named "{name}"')
        if not self.seeds:
            raise ValueError("experiments need seeds, such as seeds=(0, 1, 2)")
        if (seed := _first_duplicate(self.seeds)) is not None:
            raise ValueError(f"the seed {seed} is given twice")
        if (num_folds := self.data.num_folds) is not None and len(self.seeds) % num_folds:
            raise ValueError(
                f"{num_folds} folds need {num_folds} seeds, or a multiple of it for repeats; there are "
                f"{len(self.seeds)}"
            )
        for experiment in self.experiments:
            for name in self.constants:
                if name in experiment.config:
                    raise ValueError(f'both constants and the experiment "{experiment.name}" set "{name}"')
        # Derived, so not in model_fields_set.
        object.__setattr__(self, "num_trials", len(self.experiments) * len(self.seeds))
        return self

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials are compared; in a controlled experiment only the full budget."""
        return (self.asha.max_epochs,) if self.experiments else self.asha.rungs

    @property
    def num_repeats(self) -> int:
        """How often a cross-validation cuts the images into folds, each time differently; 1 without folds."""
        return 1 if self.data.num_folds is None else len(self.seeds) // self.data.num_folds

    @property
    def test_train_ratio(self) -> float:
        """The ratio of validation to training images of a fold; 0 without folds."""
        return 0 if self.data.num_folds is None else 1 / (self.data.num_folds - 1)

    def split_index(self, seed: int) -> int | None:
        """Return the split of a seed in a cross-validation, `num_folds * repeat + fold`; None without folds.

        Raises:
            ValueError: `seed` is not one of the sweep's seeds.
        """
        return None if self.data.num_folds is None else self.seeds.index(seed)

    @property
    def price_per_hour(self) -> float:
        """The price of a running trial per hour; 0 if the recipe has no prices."""
        prices, resources = self.stop, self.resources
        return resources.workers * (
            resources.cpus * prices.cpu_price_per_hour + resources.gpus * prices.gpu_price_per_hour
        )

    @property
    def plan_text(self) -> str:
        """The size of a controlled experiment, such as "6 configurations × 3 seeds, 9 epochs each"."""
        configurations = pluralize(len(self.experiments), "configuration")
        repetitions = pluralize(len(self.seeds), "seed")
        if self.data.num_folds is not None:
            repeats = f" × {self.num_repeats} repeats" if self.num_repeats > 1 else ""
            repetitions = f"{self.data.num_folds} folds{repeats}"
        return f"{configurations} × {repetitions}, {pluralize(self.asha.max_epochs, 'epoch')} each"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a validated copy with some fields replaced.

        Raises:
            UserError: a field is unknown or out of range, or the number of trials of a controlled experiment is set.
        """
        copy = super().model_copy(update=update, deep=deep)
        num_trials = (update or {}).get("num_trials", copy.num_trials)
        if num_trials != copy.num_trials:
            raise UserError(
                f"num_trials cannot be {num_trials}: {copy.plan_text}, are {pluralize(copy.num_trials, 'trial')}. "
                "Give other seeds, such as --set 'seeds=[0, 1]'."
            )
        return copy

    def as_controlled_experiment(
        self, configs: Mapping[str, Mapping[str, Any]], *, seeds: Iterable[int], num_folds: int | None = None
    ) -> Self:
        """Return a controlled experiment with this sweep's trainer, data, metric and budget.

        Args:
            configs: the hyperparameters of each named configuration. They may be complete configurations of trials, and
                replace the sweep's constants of the same names.
            seeds: the seeds to train each configuration with.
            num_folds: the number of folds of a cross-validation, of which each seed validates on one; None: all seeds
                share this sweep's split.

        Raises:
            UserError: a name or seed is duplicated, or there are none; the folds do not divide the seeds evenly.
        """
        experiments = {
            name: {
                key: value for key, value in config.items() if key not in RESERVED_HYPERPARAMETERS and value is not None
            }
            for name, config in configs.items()
        }
        replaced = {key for config in experiments.values() for key in config}
        copy = self.model_copy(
            update={
                "constants": {name: value for name, value in self.constants.items() if name not in replaced},
                "experiments": tuple({"name": name, "config": config} for name, config in experiments.items()),
                "seeds": tuple(seeds),
                **({} if num_folds is None else {"data": self.data.model_copy(update={"num_folds": num_folds})}),
                "asha": Asha.model_construct({"max_epochs"}, **dict(self.asha)),
            }
        )
        # Settings of the search keep their values but count as unset: nobody needs a warning that they have no effect.
        copy.model_fields_set.difference_update(("space", "num_trials", "search", "seed"))
        return copy


def _first_duplicate(values: Iterable[T]) -> T | None:
    """Return the first value that occurs more than once, or None."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _validated(model: type[P], values: Mapping[str, Any]) -> P:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(format_validation_error(error, model)) from None
