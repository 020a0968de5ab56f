"""One trial as the ledger has it: its configuration, epochs, attempts and end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["waiting", "running", "finished", "stopped", "failed", "interrupted"]


@dataclass(frozen=True)
class End:
    """How a trial ended: at which rung where ASHA stopped it, and why; `audit_rung` would have stopped it."""

    status: Status
    rung: int | None = None
    cause: str | None = None
    time_ms: int = 0
    audit_rung: int | None = None


@dataclass(frozen=True)
class AuditEntry:
    """A trial that ASHA would have stopped and that ran on, so that what stopping loses is known: a random share."""

    rung: int
    value: float
    needed: float


@dataclass(frozen=True)
class Epoch:
    """One report of a loop."""

    metrics: dict[str, float]
    time_ms: int


@dataclass(frozen=True)
class Attempt:
    """One process that trained a trial: Ray's id of its node, and the hash of the code that it imported.

    Where several workers train it together it is that of rank 0; `other_nodes` are those of ranks 1, 2, ...
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
        """As it stands beside the metrics in what a worker tells Tune: plain names, since `/` makes a metric."""
        return {f"attempt_{name}": value for name, value in asdict(self).items()}

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> Attempt | None:
        """Which attempt reported a result."""
        node, code, time_ms = (result.get(f"attempt_{name}") for name in ("node", "code", "time_ms"))
        others = tuple(map(str, result.get("attempt_other_nodes", ())))
        return cls(str(node), str(code), int(time_ms), others) if node and code and time_ms else None


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger has it; `value` and `epoch` are those of its best epoch."""

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
        """Epochs reported (the last one's number: a trial that continues another begins where that one ended)."""
        return max(self.epochs_by_number, default=0)

    @property
    def node(self) -> str | None:
        """Ray's id of the node where it was trained last; with several workers, that of rank 0."""
        return self.attempts[-1].node if self.attempts else None

    @property
    def rung(self) -> int | None:
        """Where ASHA stopped it."""
        return self.end.rung if self.end else None

    @property
    def cause(self) -> str | None:
        """Why it ended."""
        return self.end.cause if self.end else None

    @property
    def is_open(self) -> bool:
        """Whether it can go on: it runs, or was cut short by nothing of its own doing."""
        return self.status in ("waiting", "running", "interrupted")

    @property
    def seconds(self) -> float:
        """From its start to its end or last report."""
        last = self.end.time_ms if self.end else max((e.time_ms for e in self.epochs_by_number.values()), default=0)
        return max(0.0, (last - self.started_ms) / 1000) if self.started_ms else 0.0
