"""Searching the settings of the neural translator, on what is known before the validation cut.

The window that strengths are chosen on and the events after the cut have no part in the search.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.jobs.fitting import neural_fit, prior_of
from scalr_ray.jobs.train import default_validation_cut
from scalr_ray.jobs.trial import Stage
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.offline_store.cluster import ray_session

if TYPE_CHECKING:
    from scalr_ray.learn.neural.tune import Search


def tune(workspace: Workspace, *, as_of: datetime, trials: int) -> Search:
    """Try settings with Ray Tune; the best of them is what to train with.

    Args:
        workspace: an opened repository.
        as_of: the train cutoff that the settings are for.
        trials: how many choices are tried, the configured one among them.

    Raises:
        DataError: there are too few events to train on.
        RetryLater: no trial came to an end.
    """
    from scalr_ray.learn.neural.fit import stopping_task
    from scalr_ray.learn.neural.tune import tune as search

    config, progress = workspace.config, workspace.progress
    with progress.stage("Pull translator training data through Feast"):
        events = workspace.training_events(as_of)
    with workspace.run("tune") as run:
        cut = default_validation_cut(workspace, events)
        stage = Stage.of(events, validation_cut=cut, cutoff=as_of, seed=config.seed)
        how = neural_fit(workspace, prior_of(workspace, stage))
        task = stopping_task(events, validation_cut=cut, how=how, hidden=stage.hidden)
        title = f"Try {trials} settings of the neural translator with Ray Tune"
        with progress.stage(title), ray_session(config.resources.cpus):
            found = search(
                task,
                trials=trials,
                storage=str(workspace.layout.training),
                name=f"{fingerprint([config.fingerprint, as_of, trials], 16)}-tune",
            )
        run.metrics["best"] = {**found.best.settings, "validation": found.best.validation}
    return found
