"""SCALR: point-in-time-correct synthetic events, from a rich source domain into a Feast store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalr_ray.jobs.sdk import Scalr

__version__ = "0.1.0"
__all__ = ["Scalr", "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    """Load the SDK on first use: it brings Feast, which takes seconds to import."""
    if name == "Scalr":
        from scalr_ray.jobs.sdk import Scalr

        return Scalr
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
