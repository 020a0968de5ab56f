"""A trial as the ledger records it: its configuration, epochs, attempts and end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["waiting", "running", "finished", "stopped", "failed", "interrupted"]


def now_ms() -> int:
    """Return the time in milliseconds since 1970, MLflow's unit."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class End:
    """The end of a trial: its status, the cause, and the rung at which ASHA stopped it.

    `audit_rung` is the rung that would have stopped a trial that ran on for the audit.
    """

    status: Status
    rung: int | None = None
    cause: str | None = None
    time_ms: int = 0
    audit_rung: int | None = None


@dataclass(frozen=True)
class AuditEntry:
    """The rung at which ASHA would have stopped a trial, its value there and the value it needed.

    A random share of such trials runs on, to measure what early stopping loses.
    """

    rung: int
    value: float
    needed: float


@dataclass(frozen=True)
class Epoch:
    """One report of a training loop, and its time in milliseconds since 1970."""

    metrics: dict[str, float]
    time_ms: int


@dataclass(frozen=True)
class Attempt:
    """A process that trained a trial: Ray's id of its node, and the hash of the code that it imported.

    If several workers train the trial together, this is rank 0; `other_nodes` are the nodes of ranks 1, 2, ...
    """

    node: str
    code: str
    time_ms: int
    other_nodes: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of all workers, by rank."""
        return (self.node, *self.other_nodes)

    @property
    def result_fields(self) -> dict[str, Any]:
        """The fields that a worker adds to its metrics for Ray Tune; without `/`, which would make them metrics."""
        return {f"attempt_{name}": value for name, value in asdict(self).items()}

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Attempt | None:
        """Return the attempt that reported a result of Ray Tune; None if the result does not name it."""
        node, code, time_ms = (result.get(f"attempt_{name}") for name in ("node", "code", "time_ms"))
        others = tuple(map(str, result.get("attempt_other_nodes", ())))
        return cls(str(node), str(code), int(time_ms), others) if node and code and time_ms else None


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the ledger records it; `value` and `epoch` are those of its best epoch."""

    number: int
    trial_id: str
    status: Status
    config: dict[str, Any]
    epochs_by_number: dict[int, Epoch]
    value: float | None
    epoch: int | None
    started_ms: int = 0
    is_default: bool = False
    continues: str | None = None
    audited: AuditEntry | None = None
    end: End | None = None
    attempts: tuple[Attempt, ...] = ()
    mlflow_run_id: str | None = None
    optuna_state: str = ""

    @property
    def epochs(self) -> int:
        """The number of the last reported epoch; a trial that continues another counts on from that one's end."""
        return max(self.epochs_by_number, default=0)

    @property
    def node(self) -> str | None:
        """Ray's id of the node that trained it last; with several workers, the node of rank 0."""
        return self.attempts[-1].node if self.attempts else None

    @property
    def rung(self) -> int | None:
        """The rung at which ASHA stopped it, if it did."""
        return self.end.rung if self.end else None

    @property
    def cause(self) -> str | None:
        """The cause of its end, if one is recorded."""
        return self.end.cause if self.end else None

    @property
    def is_open(self) -> bool:
        """Whether it can continue: it waits, runs, or was interrupted from outside."""
        return self.status in ("waiting", "running", "interrupted")

    @property
    def last_report_ms(self) -> int:
        """The time of its last report, or of its start if it has reported nothing."""
        return max((epoch.time_ms for epoch in self.epochs_by_number.values()), default=self.started_ms)

    @property
    def seconds(self) -> float:
        """The seconds from the start of each attempt to its last report, or of the last one to the trial's end."""
        if not self.started_ms:
            return 0.0
        reports = [epoch.time_ms for epoch in self.epochs_by_number.values()]
        starts = [self.started_ms, *(attempt.time_ms for attempt in self.attempts[1:])]
        ends = [max((time for time in reports if time < following), default=0) for following in starts[1:]]
        ends.append(self.end.time_ms if self.end else self.last_report_ms)
        return sum(max(0, end - start) for start, end in zip(starts, ends, strict=True)) / 1000
