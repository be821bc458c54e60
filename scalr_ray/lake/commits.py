"""Committing to the table: look, try, and look again after a conflict.

Every attempt starts from the newest metadata, so that it can find out that its work is already
done. A conflict is known to have changed nothing and is tried again. A locked database has changed
nothing either, but was waited for already. When the answer to a commit was lost, nothing is tried
again, because it may still take effect.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from sqlalchemy.exc import OperationalError

from scalr_ray.core.errors import RetryLater, StateUnknown

_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0)

Result = TypeVar("Result")


def commit(what: str, attempt: Callable[[], Result]) -> Result:
    """Call `attempt` until it commits.

    Args:
        what: the work, for messages, for example `"publish batch b1"`.
        attempt: loads the table, and either finds the work done or commits once.

    Raises:
        RetryLater: others kept committing first, or the database stayed locked.
        StateUnknown: the commit was sent and no answer came back.
    """
    for pause_s in _PAUSES_S:
        try:
            return attempt()
        except CommitFailedException:
            # Losers of one round must not meet again in the next.
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        except CommitStateUnknownException as error:
            raise _unknown(what) from error
        except OperationalError as error:
            if "locked" not in str(error.orig):
                raise _unknown(what) from error
            raise RetryLater(f"could not {what}: the database is busy; try again") from error
    raise RetryLater(f"could not {what}: the table kept changing; try again")


def _unknown(what: str) -> StateUnknown:
    return StateUnknown(
        f"the answer to '{what}' was lost, and it may or may not have happened; run `scalr recover`"
    )
