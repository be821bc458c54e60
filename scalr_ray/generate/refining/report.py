"""What was found while a batch was refined, for the ledger and for a reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scalr_ray.generate.refining.align import AlignmentReport
from scalr_ray.generate.refining.discriminate import DiscriminatorReport
from scalr_ray.generate.refining.weigh import MassReport


@dataclass(frozen=True, kw_only=True)
class RefinementReport:
    """What was found while a batch was refined.

    Attributes:
        drawn: positives that the draw accepted.
        thinned: of them, those above the share of their bucket.
        capped: of the others, those above the cap of their item.
        alignment: None where the batch was not aligned.
        discriminator: None where either side had too few rows to tell.
        mass: the weights all together.
    """

    drawn: int
    thinned: int
    capped: int
    alignment: AlignmentReport | None
    discriminator: DiscriminatorReport | None
    mass: MassReport

    @property
    def sentences(self) -> tuple[str, ...]:
        """One line per finding."""
        told = [] if self.alignment is None else [self.alignment.sentence]
        if self.capped:
            told.append(f"item cap: {self.capped:,} events beyond the cap of their item")
        if self.discriminator is None:
            told.append("real against synthetic: too few events of either kind to tell")
        else:
            told.append(self.discriminator.sentence)
        return (*told, self.mass.sentence)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `shifted` and `given_away_by` name features where there is a verdict."""
        plain = asdict(self)
        if self.discriminator is not None:
            plain["discriminator"]["shifted"] = list(self.discriminator.shifted)
            plain["discriminator"]["given_away_by"] = list(self.discriminator.given_away_by)
        return plain

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> RefinementReport:
        """What `to_json` gave."""
        alignment, discriminator = saved["alignment"], saved["discriminator"]
        return cls(
            drawn=saved["drawn"],
            thinned=saved["thinned"],
            capped=saved["capped"],
            alignment=None if alignment is None else AlignmentReport.from_json(alignment),
            discriminator=(
                None if discriminator is None else DiscriminatorReport.from_json(discriminator)
            ),
            mass=MassReport(**saved["mass"]),
        )
