"""Settings that the author of a recipe chose but that have no effect, because another setting switches them off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from toprung.analysis.wording import join
from toprung.project.modules import find_source_file
from toprung.search.space import Space, plain_name, with_constants
from toprung.spec import Search, Sweep
from toprung.sweep.preflight import PreparedSweep, load_space

if TYPE_CHECKING:
    from toprung.data import DatasetCard

NUM_SAMPLES = 128  # misses a pair of settings that meets in 1 of 9 configurations once in 3 million sweeps


@dataclass(frozen=True)
class FieldRule:
    """Fields of the recipe that have no effect on the sweeps for which `applies` is true."""

    fields: tuple[str, ...]
    applies: Callable[[Sweep, DatasetCard], bool]
    reason: str


def _is_controlled(sweep: Sweep, card: DatasetCard) -> bool:
    return bool(sweep.experiments)


def _is_random(sweep: Sweep, card: DatasetCard) -> bool:
    return sweep.search.sampler == "random"


# If several rules match a field, the first one gives the reason.
FIELD_RULES = (
    FieldRule(("space",), _is_controlled, "a controlled experiment trains its `experiments`"),
    FieldRule(
        ("num_trials",), _is_controlled, "a controlled experiment trains each of its `experiments` with each seed"
    ),
    FieldRule(("seed",), _is_controlled, "a controlled experiment takes its seeds from `seeds`"),
    FieldRule(
        tuple(f"search.{name}" for name in Search.model_fields),
        _is_controlled,
        "a controlled experiment has no searcher",
    ),
    FieldRule(
        ("asha.grace_epochs", "asha.reduction_factor", "asha.audit_fraction"),
        _is_controlled,
        "a controlled experiment trains every trial for `asha.max_epochs`",
    ),
    FieldRule(("search.num_startup_trials",), _is_random, "random search has no start-up phase"),
    FieldRule(
        ("search.multivariate", "search.group", "search.constant_liar"), _is_random, "random search has no model"
    ),
    FieldRule(
        ("search.constant_liar",),
        lambda sweep, card: sweep.max_concurrent_trials == 1,
        "with `max_concurrent_trials` at 1, no other trial is running when one is proposed",
    ),
    FieldRule(
        ("asha.reduction_factor", "asha.audit_fraction"),
        lambda sweep, card: sweep.asha.grace_epochs == sweep.asha.max_epochs,
        "no trial is stopped early, because `asha.grace_epochs` equals `asha.max_epochs`",
    ),
    FieldRule(
        ("stop.plateau_trials",),
        lambda sweep, card: sweep.stop.plateau_trials is not None and sweep.stop.plateau_trials >= sweep.num_trials,
        "the sweep has no more trials than that",
    ),
    FieldRule(
        ("stop.max_cost",), lambda sweep, card: not sweep.price_per_hour, "a trial costs nothing at the recipe's prices"
    ),
    FieldRule(
        ("stop.gpu_price_per_hour",),
        lambda sweep, card: not sweep.resources.gpus,
        "trials use no GPU (`resources.gpus` is 0)",
    ),
    FieldRule(
        ("data.groups",),
        lambda sweep, card: sweep.data.groups and card.num_groups is None,
        "the dataset names no groups",
    ),
)


@dataclass(frozen=True)
class HyperparameterRule:
    """Arguments of a function of `toprung.vision` that it uses only for some values of another argument.

    `values` may be shell patterns.
    """

    function: str
    names: tuple[str, ...]
    switch: str
    values: tuple[str, ...]


HYPERPARAMETER_RULES = (
    HyperparameterRule("build_optimizer", ("momentum", "nesterov"), "optimizer", ("sgd",)),
    HyperparameterRule("build_optimizer", ("beta1", "beta2"), "optimizer", ("adam", "adamw")),
    HyperparameterRule("build_model", ("width", "depth"), "model", ("convnet",)),
    HyperparameterRule("build_model", ("dropout",), "model", ("convnet", "timm/*")),
)


def ineffective_settings(prepared: PreparedSweep) -> list[str]:
    """Return one line for each reason why settings of a new sweep have no effect.

    Only what the recipe or `--set` names explicitly is reported, never a default. A spec that was read back from a
    file names every field, so this is for new sweeps only.
    """
    sweep = prepared.sweep
    source = find_source_file(prepared.code, sweep.trainer, kind="trainer").read_text(
        encoding="utf-8", errors="replace"
    )
    space = None if sweep.experiments else load_space(prepared.code, sweep)
    return [
        *ineffective_fields(sweep, prepared.card),
        *ineffective_hyperparameters(chosen_hyperparameters(sweep, space), prepared.defaults, trainer_source=source),
    ]


def ineffective_fields(sweep: Sweep, card: DatasetCard) -> list[str]:
    """Return a line for each rule of `FIELD_RULES` that applies to fields which the author set.

    Args:
        sweep: the spec, as the recipe and `--set` made it.
        card: the card of its dataset.
    """
    lines, reported = [], set[str]()
    for rule in FIELD_RULES:
        fields = [field for field in rule.fields if field not in reported and _is_set(sweep, field)]
        if fields and rule.applies(sweep, card):
            reported.update(fields)
            lines.append(_line(fields, rule.reason))
    return lines


def _is_set(sweep: Sweep, field: str) -> bool:
    """Return whether the author set a field, such as `asha.grace_epochs`, to anything but None."""
    *parts, name = field.split(".")
    model: Any = sweep
    for part in parts:
        if part not in model.model_fields_set:
            return False
        model = getattr(model, part)
    return name in model.model_fields_set and getattr(model, name) is not None


def chosen_hyperparameters(sweep: Sweep, space: Space | None) -> list[dict[str, Any]]:
    """Return the hyperparameters that the author chose, by plain name, for each configuration.

    Args:
        sweep: the spec.
        space: its search space, of which 128 random configurations stand for all; None in a controlled experiment.
    """
    if space is None:
        return [{**sweep.constants, **experiment.config} for experiment in sweep.experiments]
    import optuna

    held = with_constants(space, sweep.constants)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    configs = []
    with contextlib.suppress(Exception):  # a space that fails now and then fails in the sweep, with its own message
        for _ in range(NUM_SAMPLES):
            trial = study.ask()
            returned = held(trial) or {}
            sampled = {**trial.params, **returned}
            configs.append({**{plain_name(name): value for name, value in sampled.items()}, **sweep.constants})
    return configs


def ineffective_hyperparameters(
    configs: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any], *, trainer_source: str
) -> list[str]:
    """Return a line for each hyperparameter that no configuration uses, by `HYPERPARAMETER_RULES`.

    Args:
        configs: the chosen hyperparameters of each configuration.
        defaults: the trainer's `DEFAULTS`.
        trainer_source: the trainer's source. A rule counts only if the trainer calls the rule's function: another one
            may use an argument of the same name differently.
    """
    configs, lines = list(configs), []
    for rule in HYPERPARAMETER_RULES:
        if f"{rule.function}(" not in trainer_source:
            continue
        for name in rule.names:
            switches = dict.fromkeys(
                str({**defaults, **config}.get(rule.switch)) for config in configs if config.get(name) is not None
            )
            if switches and not any(fnmatchcase(switch, value) for switch in switches for value in rule.values):
                only, always = " and ".join(rule.values), " or ".join(sorted(switches))
                uses = "uses" if len(rule.values) == 1 else "use"
                lines.append(
                    _line([name], f"only {only} {uses} it, and `{rule.switch}` is {always} wherever it is set")
                )
    return lines


def _line(names: list[str], reason: str) -> str:
    return f"{join(f'`{name}`' for name in names)} {'has' if len(names) == 1 else 'have'} no effect: {reason}"
