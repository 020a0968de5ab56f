"""`toprung check`: whether a training loop works the way a sweep needs it to."""

from toprung.sweep.conformance.checks import check_loop
from toprung.sweep.conformance.loop import NUM_EPOCHS, CheckResult, LoopCheck, build_check

__all__ = ["NUM_EPOCHS", "CheckResult", "LoopCheck", "build_check", "check_loop"]
