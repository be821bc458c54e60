"""A disk that runs full while events are generated: one line says so, and nothing half is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"

# Draws on a large disk first; then the step under test goes to a small one.
PRELUDE = """
import sys
from pathlib import Path
large, small, support = map(Path, sys.argv[1:])
sys.path.append(str(support))
import numpy as np
import pyarrow as pa
from generation_runs import SCHEMA, bucketed, destination, refinement_of, task_of
from generation_runs import IdTypes, BucketRules, bucket_events, table_stream
from small_drawings import small_drawing
from small_worlds import day, event_table
from scalr_ray.core.errors import ScalrError
from scalr_ray.generate import Buckets
from scalr_ray.generate.actors import DrawFolder, draw_bucket
from scalr_ray.generate.pipeline import refine_bucket

def drawn_to(folder):
    buckets = bucketed(drawing, large / "buckets", users=1000)
    to = DrawFolder(folder=folder)
    to.make()
    return to, draw_bucket(task_of(drawing, buckets), to, 0)

def visible(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet")
                  if not path.name.startswith("."))

def fill(folder):
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass

drawing = small_drawing()
try:
    STEP
except ScalrError as error:
    print(type(error).__name__, error.message, sep=": ")
"""

BUCKETS = """
    # Ids that are longer and harder to compress than an event is taken to be.
    names = np.random.default_rng(0).bytes(400 * 6000).hex()
    events = event_table(
        [(f"u{at % 50}", names[800 * at : 800 * at + 800], 1) for at in range(6000)], "books")
    rules = BucketRules(ids=IdTypes(), as_of=day(9), source_domains=("books",),
        target_domain="music", history_events=100, users_per_bucket=10)
    target = event_table([("u1", "a", 1)], "music")
    sides = [table_stream(side, day(9)) for side in (events, target)]
    try:
        bucket_events(*sides, rules, small / "b")
    finally:
        print(Buckets.found(small / "b"))
"""

DRAWN = """
    fill(small)
    (small / "filler").open("r+b").truncate(small.joinpath("filler").stat().st_size - 40_000)
    try:
        drawn_to(small / "drawn")
    finally:
        print(visible(small), sorted((small / "drawn" / "done").iterdir()))
"""

REFINED = """
    folder, counts = drawn_to(large / "drawn")
    refinement = refinement_of(drawing, [folder.drawn(0)])
    to = destination(small)
    to.staged.mkdir()
    to.refused.mkdir()
    fill(small)
    (small / "filler").open("r+b").truncate(small.joinpath("filler").stat().st_size - 12_000)
    try:
        refine_bucket(0, folder, refinement, SCHEMA, to)
    finally:
        print(visible(small))
"""


def on_a_small_disk(step: str, folder: Path) -> list[str]:
    """What the script says of which `step` is done, where 1 MB is left to write to."""
    large, small = folder / "large", folder / "small"
    large.mkdir()
    small.mkdir()
    unshare = shutil.which("unshare")
    assert unshare is not None, "install util-linux"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    inside = f'mount -t tmpfs -o size=1m none "{small}" && exec "$0" -c "$@"'
    script = PRELUDE.replace("    STEP\n", step)
    places = map(str, (large, small, SUPPORT))
    done = subprocess.run(
        [unshare, *user, "--mount", "sh", "-c", inside, sys.executable, script, *places],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("step", "what", "seen"),
    [
        (BUCKETS, "the events of the users, in buckets,", "None"),
        (DRAWN, "the events drawn", "[] []"),
        (REFINED, "the events of the batch", "[]"),
    ],
    ids=["buckets", "drawn", "refined"],
)
def test_a_disk_that_runs_full_is_told_in_one_line(tmp_path, step, what, seen):
    said = on_a_small_disk(step, tmp_path)
    told = (
        f"RetryLater: the disk ran full while {what} were written; make room, or point data_dir at "
        "a larger disk, and run it again: what was finished is kept"
    )
    assert said == [seen, told]
