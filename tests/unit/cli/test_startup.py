from __future__ import annotations

import json
import subprocess
import sys
import time

HEAVY = {"duckdb", "feast", "numpy", "pandas", "pyarrow", "ray", "rich", "sqlalchemy", "torch"}
HALF_A_SECOND = 0.5

SCRIPT = """
import json, sys
from scalr_ray.cli.main import main
code = main(["--help"])
print(json.dumps({"code": code, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def help_in_a_new_process() -> tuple[float, subprocess.CompletedProcess[str]]:
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - before, done


def test_help_answers_within_half_a_second_without_the_heavy_libraries():
    tries = [help_in_a_new_process() for _ in range(3)]
    _, done = tries[0]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["code"] == 0
    assert HEAVY & set(answer["modules"]) == set()
    assert min(seconds for seconds, _ in tries) < HALF_A_SECOND
    assert "\n  import " in done.stdout
