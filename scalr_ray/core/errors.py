"""The exception tree and the exit codes it maps to.

```
ScalrError                    exit 1   a bug, or a failure nobody foresaw
├── UsageError                exit 2   the user can mend it: configuration, input, order of commands
│   ├── ConfigError                    scalr.yaml or an override is wrong
│   ├── DataError                      a file, a column, a row or a domain is wrong
│   │   └── TooLittleData              nothing is wrong, but there is not enough of it yet
│   ├── MassReached                    the published events weigh as much as all may
│   └── UnderpoweredError              a measurement is too small to decide
├── LeakageError              exit 1   a row that could not have been known was about to be used
├── TrainingDiverged          exit 1   the loss is no longer finite; the last good epoch is kept
├── GateRefused               exit 3   the gate found a batch unfit to publish
├── RetryLater                exit 4   a lock, a network or a cluster was not there; try again
└── StateUnknown              exit 5   a commit may or may not have happened; repair before going on
```
"""

from __future__ import annotations

from typing import ClassVar

from scalr_ray.core.secrets import hide_secrets


class ScalrError(Exception):
    """The root of all errors raised on purpose.

    Attributes:
        code: stable identifier, fit for dashboards and tests.
        exit_code: what the command line returns.
        retryable: whether the same call may succeed later without any change.
    """

    code: ClassVar[str] = "scalr_error"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    @property
    def message(self) -> str:
        """The one line for the user; it says what to do next, and no password."""
        return " ".join(hide_secrets(str(self)).split())


class UsageError(ScalrError):
    """The call cannot be carried out as given, and the user can mend it."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """`scalr.yaml`, `feature_store.yaml`, an environment variable or a `--set` is wrong."""

    code = "config"


class DataError(UsageError):
    """An input file, column, row or domain is wrong; nothing has been written."""

    code = "data"


class TooLittleData(DataError):
    """The events that are there as of a time are sound, and too few; later there may be enough."""

    code = "too_little_data"


class MassReached(UsageError):
    """The published events weigh as much as all synthetic events may; another batch adds none."""

    code = "mass_reached"


class UnderpoweredError(UsageError):
    """A measurement was asked to decide, and its intervals are too wide for that."""

    code = "underpowered"


class LeakageError(ScalrError):
    """A training row could not have been known at the moment it claims to describe."""

    code = "leakage"


class TrainingDiverged(ScalrError):
    """The loss is no longer finite; going on would only spread it."""

    code = "training_diverged"


class GateRefused(ScalrError):
    """The gate found a batch unfit to publish; it stays staged and nothing was published."""

    code = "gate_refused"
    exit_code = 3


class RetryLater(ScalrError):
    """Something outside was not available; the same call may succeed later."""

    code = "retry_later"
    exit_code = 4
    retryable = True


class StateUnknown(ScalrError):
    """A commit was sent and its outcome is unknown."""

    code = "state_unknown"
    exit_code = 5
