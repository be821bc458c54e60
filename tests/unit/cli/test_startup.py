from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {"duckdb", "feast", "numpy", "pandas", "pyarrow", "ray", "rich", "sqlalchemy", "torch"}
HALF_A_SECOND = 0.5

SCRIPT = """
import json, sys, time
from scalr_ray.cli.main import main
code = main(["--help"])
modules = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"code": code, "cpu_s": time.process_time(), "modules": modules}))
"""


def test_help_answers_within_half_a_second_without_the_heavy_libraries():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["code"] == 0
    assert HEAVY & set(answer["modules"]) == set()
    assert answer["cpu_s"] < HALF_A_SECOND  # of its own: others may keep this machine busy
    assert "\n  import " in done.stdout
