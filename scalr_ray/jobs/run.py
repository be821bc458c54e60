"""The scheduled run as a job: `python -m scalr_ray.jobs.run`; what it does is in `increment.py`."""

from __future__ import annotations

from scalr_ray.jobs.entry import Told, main_of, run_stage
from scalr_ray.jobs.increment import run
from scalr_ray.jobs.workspace import Workspace


def _job(workspace: Workspace, as_of: str | None) -> Told:
    """Publish what is new, for all users the first time; exit code 3 when the gate refuses."""
    outcome = run(workspace, workspace.cut(as_of))
    return Told(record=outcome, sentence=outcome.sentence, refused=not outcome.accepted)


main = main_of("run", _job)

if __name__ == "__main__":
    run_stage("run")
