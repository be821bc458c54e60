"""What an evaluation says: the content of `report.json`, from the rankings of all arms."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.generate import Coding, vocabulary_fingerprint
from scalr_ray.jobs.arms import Holdout, chunks
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.learn import TrainingEvents
from scalr_ray.ledger import BatchRecord, BatchState, TranslatorRecord
from scalr_ray.translator import Translator, Users, log_likelihood
from training.bootstrap import Interval
from training.lift import ArmResult, judge, lifts_to_json, paired_lift, summarise
from training.segments import Segment, SegmentLifts, segment_lifts, segments_of
from training.verdict import Verdict, decides, describe, ndcg_of
from training.ways import better_way

_CALIBRATION_EDGES = np.logspace(-7, 0, 15)
_LIFTS_KEPT = {
    "mixed_in_over_real": "lift",
    "folded_in_over_real": "lift_folded_over_real",
    "folded_in_over_mixed_in": "lift_folded_over_rows",
}
_PACKAGES = ("scalr", "feast", "ray", "duckdb", "pyarrow", "pyiceberg", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated, and on whom."""

    batch: BatchRecord
    record: TranslatorRecord
    translator: Translator
    events: TrainingEvents
    test: Holdout
    users: Users

    @property
    def ranks(self) -> bool:
        """Whether the translator knows the same items; an increment's may be older than they."""
        codes = Coding.of(self.translator).fingerprint
        return codes == vocabulary_fingerprint(self.events.source_items, self.events.target_items)

    def finer_segments(self) -> dict[str, Segment]:
        """Test users by their history, and outcomes by the popularity of the item."""
        users = len(self.events.users)
        target, source = (
            np.bincount(domain.users, minlength=users)[self.test.users]
            for domain in (self.events.target, self.events.source)
        )
        return segments_of(target, source, self._item_events(), self.test.relevant)

    def item_shares(self) -> NDArray[np.float64]:
        """(I,) of all target events before the cut."""
        counts = self._item_events()
        shares: NDArray[np.float64] = counts / counts.sum()
        return shares

    def _item_events(self) -> NDArray[np.int64]:
        return np.bincount(self.events.target.items, minlength=len(self.events.target_items))


def result_of(
    workspace: Workspace,
    subject: Subject,
    arms: Mapping[str, ArmResult],
    rankers: Mapping[str, ArmResult],
    baselines: Mapping[str, ArmResult],
) -> dict[str, Any]:
    """Verdict, lifts, metrics and gate, as `training.report.write_report` describes them."""
    config, segments = workspace.config, subject.test.segments
    how = {"bootstrap": config.evaluation.bootstrap, "seed": config.seed}

    def lift(treated: ArmResult, control: ArmResult) -> Any:  # noqa: ANN401 - nested dicts
        return paired_lift(treated, control, segments, **how)

    over_real = lift(arms["synthetic"], arms["real_only"])
    over_placebo = lift(arms["synthetic"], arms["placebo"])
    folded_over_rows = lift(arms["folded_in"], arms["synthetic"])
    folded_over_real = lift(arms["folded_in"], arms["real_only"])
    verdict, sentence = judge(over_real, over_placebo, users=subject.test.sizes)
    way, compared = better_way(
        folded_over_rows,
        folded_over_real=folded_over_real,
        rows_over_real=over_real,
        users=subject.test.sizes,
    )
    sentence = f"{sentence} {compared}"
    finer = segment_lifts(
        arms["synthetic"],
        arms["real_only"],
        arms["placebo"],
        subject.test.relevant,
        subject.finer_segments(),
        **how,
    )
    batch = subject.batch
    published = batch.state is BatchState.PUBLISHED
    shares = subject.item_shares()
    refinement = workspace.ledger.run(batch.run_id).metrics.get("refinement") or {}
    return {
        "verdict": verdict.value,
        "sentence": sentence if published else f"Nothing was published. Had it been: {sentence}",
        "better_way": way.value,
        "published": published,
        "cautions": [*_of_recency(arms, baselines), *_of_segments(finer)],
        "arms": {
            name: summarise(arm, segments, relevant=subject.test.relevant, shares=shares)
            for name, arm in arms.items()
        },
        "rankers": {name: summarise(arm, segments) for name, arm in rankers.items()},
        "baselines": {name: summarise(arm, segments) for name, arm in baselines.items()},
        "lift": lifts_to_json(over_real),
        "lift_over_placebo": lifts_to_json(over_placebo),
        "lift_placebo_over_real": lifts_to_json(lift(arms["placebo"], arms["real_only"])),
        "lift_upsampled_over_real": lifts_to_json(lift(arms["upsampled"], arms["real_only"])),
        "lift_folded_over_real": lifts_to_json(folded_over_real),
        "lift_folded_over_rows": lifts_to_json(folded_over_rows),
        "lift_over_prior": lifts_to_json(lift(rankers["translator"], rankers["prior"]))
        if rankers
        else {},
        "finer": finer.to_json(),
        "alignment": refinement.get("alignment"),
        "gate": [
            {
                "check": check.check,
                "passed": check.passed,
                "value": check.value,
                "threshold": check.threshold,
                "detail": check.detail,
            }
            for check in workspace.ledger.verdicts(batch.batch_id)
        ],
        "counts": _counts(subject),
        "versions": _versions(),
        "config_fingerprint": config.fingerprint,
        "as_of": _iso(batch.as_of),
        "lineage": {
            "batch": batch.batch_id,
            "as of": _iso(batch.as_of),
            "run": batch.run_id,
            "translator": subject.record.version,
            "trained up to": _iso(subject.record.train_cutoff),
        },
        "batch_id": batch.batch_id,
        "translator": dict(subject.record.metrics),
    }


def volume_of(
    workspace: Workspace, subject: Subject, volume: Mapping[int, ArmResult], real: ArmResult
) -> list[dict[str, Any]]:
    """What NDCG gains over real events alone by fewer of the events and by all, least first.

    Args:
        workspace: an opened repository.
        subject: what is evaluated.
        volume: by number of events, the arm that they are mixed into.
        real: the arm of real events alone.
    """
    how = {"bootstrap": workspace.config.evaluation.bootstrap, "seed": workspace.config.seed}
    found = []
    for events, arm in sorted(volume.items()):
        lifts = paired_lift(arm, real, subject.test.segments, **how)
        ndcg = {segment: ndcg_of(metrics).to_json() for segment, metrics in lifts.items()}
        found.append({"events": events, "lift": ndcg})
    return found


def decided(result: Mapping[str, Any]) -> bool:
    """Whether the synthetic events help, yes or no.

    Raises:
        UnderpoweredError: it cannot be told.
    """
    told, cuts = _read_for_verdict(result)
    lift = {
        segment: {name: Interval.from_json(found) for name, found in metrics.items()}
        for segment, metrics in told["lift"].items()
    }
    users = told["test_users"]["all"] if cuts > 1 else result["counts"]["test_users_all"]
    return decides(Verdict(result["verdict"]), lift, users=users, cuts=cuts)


def told_of_lifts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the run keeps: verdict, better way, and the lifts of NDCG behind them, by segment."""
    told, _ = _read_for_verdict(result)
    return {
        "verdict": result["verdict"],
        "better_way": result["better_way"],
        "ndcg_lift": {
            name: {segment: ndcg_of(metrics) for segment, metrics in told[lift].items()}
            for name, lift in _LIFTS_KEPT.items()
        },
    }


def _read_for_verdict(result: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """What holds the lifts that the verdict was read off, and over how many cuts."""
    origins = result.get("origins")
    return (result, 1) if origins is None else (origins["pooled"], len(origins["rows"]))


def _of_recency(arms: Mapping[str, ArmResult], baselines: Mapping[str, ArmResult]) -> list[str]:
    """That popularity alone ranks better, where it does."""
    best = max(baselines, key=lambda name: float(baselines[name].ndcg.mean()))
    strongest = float(baselines[best].ndcg.mean())
    reached = float(arms["synthetic"].ndcg.mean())
    if strongest <= reached:
        return []
    window = best.removeprefix("popularity_")
    longest = window == "all_time"
    caution = (
        f"Popularity alone ({window.replace('_', ' ')}) ranks better, NDCG {strongest:.4f}, than "
        f"the downstream model with synthetic events, {reached:.4f}. Recency, not cross-domain "
        "data, is the first thing to mend here: train again with "
        f"{'a longer prior.window_days' if longest else f'prior.window_days={window[:-1]}'}."
    )
    return [caution]


def _of_segments(finer: SegmentLifts) -> list[str]:
    """Who loses, of so many who might by chance."""
    return [
        f"{name[0].upper()}{name[1:]} lose: NDCG {describe(finer.segments[name].over_real)} over "
        f"real events alone, at the level that {len(finer.segments)} segments ask for."
        for name in finer.harmed
    ]


def _counts(subject: Subject) -> dict[str, Any]:
    events, test = subject.events, subject.test
    return {
        "users": len(events.users),
        "source_items": len(events.source_items),
        "target_items": len(events.target_items),
        "source_events": len(events.source),
        "target_events": len(events.target),
        "synthetic_events": subject.batch.rows,
        "ranked_items": int(test.rankable.sum()),
        **{f"test_users_{name}": size for name, size in test.sizes.items()},
    }


def calibration_of(subject: Subject) -> list[dict[str, float]]:
    """Predicted against observed probability that a test event falls on an item, by bin.

    The likelihood is that of the next target item, so a user with n test events is expected to hit
    a bin n times the likelihood in it.
    """
    bins = len(_CALIBRATION_EDGES) + 1
    mass, hits, pairs = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    for part in chunks(len(subject.test.users)):
        relevant = subject.test.relevant[part]
        about = subject.users.part(part.start, part.stop)
        p = np.exp(log_likelihood(subject.translator, about)).astype(np.float64)
        bucket = np.digitize(p, _CALIBRATION_EDGES)
        events = np.broadcast_to(np.diff(relevant.indptr)[:, None], p.shape)
        mass += np.bincount(bucket.ravel(), weights=(events * p).ravel(), minlength=bins)
        pairs += np.bincount(bucket.ravel(), weights=events.ravel(), minlength=bins)
        hit = relevant.tocoo()
        hits += np.bincount(bucket[hit.row, hit.col], minlength=bins)
    return [
        {"predicted": m / n, "observed": h / n, "count": n}
        for m, h, n in zip(mass, hits, pairs, strict=True)
        if n > 0 and m > 0
    ]


def popularity_of(subject: Subject, synthetic: pa.Table) -> dict[str, list[int]]:
    """How many real and synthetic events each item has, the most popular first."""
    drawn = synthetic.filter(synthetic["is_synthetic"])
    return {
        "real": _ranked_counts(subject.events.target.items),
        "synthetic": _ranked_counts(subject.events.target_items.codes(drawn["item_id"])),
    }


def _ranked_counts(items: NDArray[np.int64]) -> list[int]:
    counts = np.bincount(items[items >= 0])
    return [int(count) for count in np.sort(counts[counts > 0])[::-1]]


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _iso(moment: datetime) -> str:
    return moment.isoformat()
