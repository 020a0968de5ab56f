"""What a recipe says: `Sweep` and its parts, frozen pydantic models that survive a round trip through JSON.

A recipe is a function that returns a `Sweep`; another recipe derives from it with `model_copy(update=...)`, and the
command line overrides single fields with `--set asha.max_epochs=4` (settings.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from toprung.errors import UserError, format_validation_error
from toprung.metric_mode import infer_mode
from toprung.metric_names import metric_problem


def _dotted_name(value: object) -> object:
    """A function given in a recipe becomes the dotted name by which every worker imports it."""
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


class SpecModel(BaseModel):
    """One frozen part of a sweep: unknown fields are errors, and copies are validated too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields replaced, checked like a new one (pydantic's own copy does not check).

        Raises:
            UserError: a field is unknown or out of range.
        """
        del deep  # frozen all the way down: a shallow copy shares nothing that can change
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return _validated(type(self), {**given, **(update or {})})


P = TypeVar("P", bound=SpecModel)
T = TypeVar("T")


class Asha(SpecModel):
    """Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning")."""

    grace_epochs: int = Field(default=1, ge=1, description="no trial is stopped before this epoch")
    max_epochs: int = Field(default=9, ge=1, description="the top rung: a trial's full budget")
    reduction_factor: int = Field(default=3, ge=2, description="one in this many goes on from a rung")
    audit_fraction: float = Field(
        default=0, ge=0, le=1, description="of the trials that would be stopped, the share that runs on to the end"
    )

    @model_validator(mode="after")
    def _grace_below_max(self) -> Self:
        if self.grace_epochs > self.max_epochs:
            raise ValueError(f"grace_epochs ({self.grace_epochs}) is above max_epochs ({self.max_epochs})")
        return self

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials are compared, the full budget last: (1, 3, 9)."""
        below = []
        rung = self.grace_epochs
        while rung < self.max_epochs:
            below.append(rung)
            rung *= self.reduction_factor
        return (*below, self.max_epochs)


class Search(SpecModel):
    """Optuna's tree-structured Parzen estimator; every setting is written down, none left to a default that moves."""

    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = Field(default=0, ge=0)
    num_startup_trials: int = Field(default=10, ge=1, description="random trials before the model is asked")
    multivariate: bool = True
    group: bool = True
    constant_liar: bool = True


class Resources(SpecModel):
    """What one trial takes: so many workers, each with so much."""

    cpus: float = Field(default=1, gt=0, description="of each worker")
    gpus: float = Field(default=0, ge=0, description="of each worker; below 1, a share: several trials on one GPU")
    custom: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="of each worker: custom resources, as `ray start --resources` names them"
    )
    label_selector: dict[str, str] = Field(
        default_factory=dict, description="which nodes may be used, by their labels: v, !v, in(a,b) or !in(a,b)"
    )
    workers: int = Field(default=1, ge=1, description="processes that train one trial together, by DDP")

    @model_validator(mode="after")
    def _custom_beside_cpus_and_gpus(self) -> Self:
        for name, field in (("CPU", "cpus"), ("GPU", "gpus")):
            if name in self.custom:
                raise ValueError(f'custom cannot give "{name}": that is the field {field}')
        return self

    @model_validator(mode="after")
    def _whole_gpus_for_workers(self) -> Self:
        if self.workers > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus cannot be {self.gpus:g} with {self.workers} workers: NCCL gives each its own GPU")
        return self

    @model_validator(mode="after")
    def _whole_gpus_above_one(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus cannot be {self.gpus:g}: Ray gives a share of one GPU, or whole ones")
        return self

    @property
    def num_threads(self) -> int:
        """Threads that torch may use in each worker."""
        return max(1, math.floor(self.cpus))

    @property
    def bundles(self) -> tuple[dict[str, float], ...]:
        """What Ray sets aside for one trial, in Ray's words: a bundle a worker, each on one node; nothing else."""
        bundle = {"CPU": self.cpus, "GPU": self.gpus, **self.custom}
        return tuple({name: need for name, need in bundle.items() if need} for _ in range(self.workers))


class Stop(SpecModel):
    """What ends a sweep before its last trial: the first rule that holds."""

    seconds: float | None = Field(default=None, gt=0, description="wall clock, all resumptions together")
    target: float | None = Field(default=None, description="a value of the metric that is good enough")
    plateau_trials: int | None = Field(default=None, ge=1, description="so many trials ended without a new best")
    max_cost: float | None = Field(default=None, gt=0, description="money, by the prices below")
    cpu_price_per_hour: float = Field(default=0, ge=0, description="of one CPU")
    gpu_price_per_hour: float = Field(default=0, ge=0, description="of one GPU")

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Self:
        if self.max_cost is not None and not (self.cpu_price_per_hour or self.gpu_price_per_hour):
            raise ValueError("max_cost needs cpu_price_per_hour or gpu_price_per_hour")
        return self


class Data(SpecModel):
    """Which prepared dataset, and how it is split. The test split is no part of a sweep."""

    name: str = Field(default="digits", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    folder: str | None = Field(
        default=None, min_length=1, description="where its raw files lie, for `toprung data prepare RECIPE`"
    )
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)
    max_train: int | None = Field(default=None, ge=1, description="use only so many training images")
    max_val: int | None = Field(default=None, ge=1, description="use only so many validation images")
    groups: bool = Field(
        default=True, description="keep a group (a patient's images) in one part, where there are groups"
    )
    placement: Literal["auto", "object_store", "mmap"] = Field(
        default="auto", description="images in shared memory, or mapped from disk; auto: by their size"
    )


Hyperparameters = dict[str, bool | int | float | str]

# What only the sweep gives to a trial (no space, constants, DEFAULTS or experiment may), and the fields behind it.
FIELDS_OF_OWN_NAMES = {"num_epochs": "asha.max_epochs", "seed": "seed", "experiment": "experiments"}
NOT_GIVEN = tuple(FIELDS_OF_OWN_NAMES)


class Experiment(SpecModel):
    """One named configuration of a controlled experiment; what it leaves out is as in the others, or the default."""

    name: str = Field(pattern=r"^\S(.{0,98}\S)?$", description='such as "A baseline"; a tag of its runs in MLflow')
    config: Hyperparameters = Field(default_factory=dict, description="hyperparameters by the trainer's own names")

    @model_validator(mode="after")
    def _only_hyperparameters(self) -> Self:
        for name in NOT_GIVEN:
            if name in self.config:
                raise ValueError(f'the experiment "{self.name}" cannot give "{name}": the sweep does')
        return self


class Sweep(SpecModel):
    """A whole sweep: what is trained, what may vary, how long, and by which metric it is judged.

    Either a searcher proposes configurations from a space and ASHA stops them early, or the sweep is a controlled
    experiment: each of its `experiments` is trained with each of its `seeds` for the full budget.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="the experiment's name in MLflow")
    trainer: DottedName
    space: DottedName | None = Field(default=None, description="what may vary; none with experiments")
    constants: Hyperparameters = Field(default_factory=dict, description="hyperparameters held fixed in every trial")
    experiments: tuple[Experiment, ...] = Field(default=(), description="configurations that take a searcher's place")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="of every experiment's trials")
    data: Data = Data()
    metric: MetricName = Field(default="val/accuracy", description="as the loop reports it")
    mode: Literal["max", "min"] = Field(default="max", description="left out: as the metric's name says")
    num_trials: int = Field(default=48, ge=1, description="with experiments: as many as those times the seeds")
    asha: Asha = Asha()
    stop: Stop = Stop()
    search: Search = Search()
    resources: Resources = Resources()
    max_concurrent_trials: int | None = Field(default=None, ge=1, description="None: as many as fit")
    seed: int = Field(default=0, ge=0, description="of initial weights, shuffling and augmentation")
    storage: str = Field(default="runs", min_length=1, description="root of all sweeps: a folder, s3://... or gs://...")

    @model_validator(mode="after")
    def _mode_of_metric(self) -> Self:
        if "mode" not in self.model_fields_set:
            object.__setattr__(self, "mode", infer_mode(self.metric) or "max")  # derived: never "set"
        return self

    @model_validator(mode="after")
    def _searched_or_controlled(self) -> Self:
        if not self.experiments:
            if self.seeds:
                raise ValueError("seeds are for experiments, and there are none; a search has one seed")
            if self.space is None:
                raise ValueError("it needs a space to search, or experiments to train")
            return self
        names = [experiment.name for experiment in self.experiments]
        if twice := _first_duplicate(names):
            raise ValueError(f'two experiments are named "{twice}"')
        if not self.seeds:
            raise ValueError("experiments need seeds, such as seeds=(0, 1, 2)")
        if (again := _first_duplicate(self.seeds)) is not None:
            raise ValueError(f"the seed {again} is given twice")
        for experiment in self.experiments:
            for name in self.constants:
                if name in experiment.config:
                    raise ValueError(f'constants hold "{name}" fixed, the experiment "{experiment.name}" gives it too')
        object.__setattr__(self, "num_trials", len(self.experiments) * len(self.seeds))  # derived: never "set"
        return self

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials are compared, the full budget last; nothing else in a controlled experiment."""
        return (self.asha.max_epochs,) if self.experiments else self.asha.rungs

    @property
    def price_per_hour(self) -> float:
        """Of one running trial, by the recipe's prices; 0 where it names none."""
        rules, takes = self.stop, self.resources
        return takes.workers * (takes.cpus * rules.cpu_price_per_hour + takes.gpus * rules.gpu_price_per_hour)

    @property
    def plan_text(self) -> str:
        """A controlled experiment in words, such as "6 configurations × 3 seeds, 9 epochs each"."""
        counts = (len(self.experiments), "configuration"), (len(self.seeds), "seed"), (self.asha.max_epochs, "epoch")
        configurations, seeds, epochs = (f"{count} {what}{'s' if count != 1 else ''}" for count, what in counts)
        return f"{configurations} × {seeds}, {epochs} each"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A checked copy with some fields replaced.

        Raises:
            UserError: a field is unknown or out of range, or a controlled experiment is given a number of trials.
        """
        copy = super().model_copy(update=update, deep=deep)
        num_trials = (update or {}).get("num_trials", copy.num_trials)
        if num_trials != copy.num_trials:
            raise UserError(
                f"num_trials cannot be {num_trials}: {copy.plan_text}, are {copy.num_trials} trials. "
                "Give other seeds, such as --set 'seeds=[0, 1]'."
            )
        return copy

    def as_controlled_experiment(self, configs: Mapping[str, Mapping[str, Any]], *, seeds: Iterable[int]) -> Self:
        """This sweep as a controlled experiment: the same trainer, data, metric and budget, without a searcher.

        Args:
            configs: hyperparameters by the configuration's name; whole configurations of trials may be given, and
                take the place of constants of the same name.
            seeds: every configuration is trained with each of them.

        Raises:
            UserError: names or seeds are given twice, or none.
        """
        plain = {
            name: {key: value for key, value in config.items() if key not in NOT_GIVEN and value is not None}
            for name, config in configs.items()
        }
        given = {key for config in plain.values() for key in config}
        copy = self.model_copy(
            update={
                "constants": {name: value for name, value in self.constants.items() if name not in given},
                "experiments": tuple({"name": name, "config": config} for name, config in plain.items()),
                "seeds": tuple(seeds),
                "asha": Asha.model_construct({"max_epochs"}, **dict(self.asha)),
            }
        )
        # Settings of the search keep their values but count as unset: nobody needs a warning that they have no effect.
        copy.model_fields_set.difference_update(("space", "num_trials", "search", "seed"))
        return copy


def _first_duplicate(values: Iterable[T]) -> T | None:
    """The first value that occurs more than once."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _validated(model: type[P], values: Mapping[str, Any]) -> P:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(format_validation_error(error, model)) from None
