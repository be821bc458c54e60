"""The gate: is this batch fit to publish?

`audit` reads the staged rows and holds them against what was observed; `Check` is one answer, with
what was measured and what it was held against. A batch is accepted when every check passes. Whether
the events help a downstream model is measured elsewhere and comes in as checks of its own.
"""

from scalr_ray.gate.audit import Observed, audit
from scalr_ray.gate.check import Check, first_failure
from scalr_ray.gate.drift import population_stability

__all__ = ["Check", "Observed", "audit", "first_failure", "population_stability"]
