"""A clean environment for every test: nothing phones home, and no setting of the host leaks in.

It is arranged while this file is imported, because numpy, Ray and Feast read their settings when
they are first imported, and the test modules import them right after.
"""

from __future__ import annotations

import os
import sys

import pytest
from databases import (  # noqa: F401 - fixtures
    database_url,
    module_database,
    new_postgres_url,
    postgres,
    postgres_database,
    postgres_url,
)
from hypothesis import HealthCheck, settings

_QUIET = {
    "FEAST_USAGE": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # a report waits for a check: 1.4 s by default
    "OPENBLAS_NUM_THREADS": "2",
    "OMP_NUM_THREADS": "2",
}
_POINTERS = ("RAY_ADDRESS", "FEAST_FS_YAML_FILE_PATH")  # to a cluster and a store of the host
_CONFIGURATION = ("SCALR_", "PG", "OPENLINEAGE")  # of SCALR, of libpq, of OpenLineage
_STEERS_THE_TESTS = "SCALR_TEST_"


def _clean_environment() -> None:
    os.environ.update(_QUIET)
    for name in list(os.environ):
        configures = name.startswith(_CONFIGURATION) and not name.startswith(_STEERS_THE_TESTS)
        if configures or name in _POINTERS:
            del os.environ[name]


_clean_environment()

# No deadline and no limit on slow data: a busy machine is no reason to fail. On CI the examples
# are the same each time, so that only a change of the code can change the outcome.
_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("local", **_PATIENT)
settings.register_profile("ci", **_PATIENT, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if "CI" in os.environ else "local")

_STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End with the result of the tests, without tearing the interpreter down.

    Arrow's S3 client, Ray, gRPC and ADBC share this process, and end their threads in an order that
    nobody controls: now and then that crashed after the last test had passed. So Ray, which ends
    its processes when the interpreter is torn down, is told to end them here.
    """
    if _STATUS in config.stash:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_STATUS])
