"""The parts of a sweep: early stopping, search, resources, stop rules, data, and the experiments of a comparison."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from toprung.spec.fields import Hyperparameters, SpecModel


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

    def without_rules(self) -> Stop:
        """Return the prices alone."""
        return Stop(cpu_price_per_hour=self.cpu_price_per_hour, gpu_price_per_hour=self.gpu_price_per_hour)


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
