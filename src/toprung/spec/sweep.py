"""`Sweep`: what a recipe returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from toprung.errors import UserError, pluralize
from toprung.metric_mode import infer_mode
from toprung.metric_names import DEFAULT_METRICS
from toprung.spec.fields import ClassificationMetric, DottedName, Hyperparameters, MetricName, SpecModel, WeightsName
from toprung.spec.settings import RESERVED_HYPERPARAMETERS, Asha, Data, Experiment, Resources, Search, Stop

T = TypeVar("T")


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
            name: {key: value for key, value in config.items() if key not in RESERVED_HYPERPARAMETERS}
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
