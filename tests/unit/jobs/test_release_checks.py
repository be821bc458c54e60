from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_worlds import day

from scalr_ray.jobs.release import _lift_checks
from scalr_ray.jobs.train import TRIAL_NAME, load_trial
from scalr_ray.jobs.trial import Gain, Trial
from scalr_ray.ledger import TranslatorRecord

LEAST = 0.01
GOOD = Gain(estimate=0.2, low=0.1, high=0.3)
NOTHING = Gain(estimate=0.0, low=-0.1, high=0.1)
BAD = Gain(estimate=-0.2, low=-0.3, high=-0.1)
TRIAL = Trial(
    weight_scale=0.03,
    decay_events=0.0,
    users={"all": 200, "hidden": 120, "warm": 80},
    over_real={"all": GOOD, "hidden": GOOD, "warm": NOTHING},
    over_placebo={"all": GOOD, "hidden": GOOD, "warm": NOTHING},
)


def translator(folder: Path, *, transfers: bool = True, trial: Trial | None = TRIAL):
    if trial is not None:
        (folder / TRIAL_NAME).write_text(json.dumps(trial.to_json()))
    return TranslatorRecord(
        version="frequency-1",
        run_id="run",
        kind="frequency",
        train_cutoff=day(10),
        config_fingerprint="c",
        data_fingerprint="d",
        metrics={"gain_nats": 0.25, "z": 7.5 if transfers else 0.5, "transfers": transfers},
        path=str(folder),
        created_at=day(11),
        flagged=None,
    )


def outcome(record: TranslatorRecord) -> dict[str, bool]:
    return {check.name: check.passed for check in _lift_checks(record, LEAST)}


def test_a_gain_over_both_and_no_loss_passes_every_check(tmp_path):
    checks = _lift_checks(translator(tmp_path), LEAST)
    assert [check.name for check in checks] == [
        "transfer",
        "trial_gain",
        "trial_size",
        "trial_placebo",
        "trial_harm",
    ]
    assert all(check.passed for check in checks)
    assert (checks[0].value, checks[0].threshold) == (7.5, 1.96)
    assert (checks[1].value, checks[1].threshold) == (0.1, 0.0)
    assert "hidden users" in checks[1].detail
    assert "+0.200 nats per event [+0.100, +0.300]" in checks[1].detail


@pytest.mark.parametrize("gain", [NOTHING, BAD, replace(GOOD, low=0.0)])
def test_a_gain_that_may_be_none_fails(tmp_path, gain):
    over_real = {**TRIAL.over_real, "hidden": gain}
    assert not outcome(translator(tmp_path, trial=replace(TRIAL, over_real=over_real)))[
        "trial_gain"
    ]


@pytest.mark.parametrize(("estimate", "passes"), [(0.0099, False), (0.01, True)])
def test_a_sure_but_tiny_gain_fails(tmp_path, estimate, passes):
    tiny = Gain(estimate=estimate, low=0.005, high=0.015)
    trial = replace(TRIAL, over_real={**TRIAL.over_real, "hidden": tiny})
    found = outcome(translator(tmp_path, trial=trial))
    assert (found["trial_gain"], found["trial_size"]) == (True, passes)


@pytest.mark.parametrize("gain", [NOTHING, BAD])
def test_a_gain_that_a_placebo_gives_too_fails(tmp_path, gain):
    trial = replace(TRIAL, over_placebo={**TRIAL.over_placebo, "hidden": gain})
    found = outcome(translator(tmp_path, trial=trial))
    assert found == {
        "transfer": True,
        "trial_gain": True,
        "trial_size": True,
        "trial_placebo": False,
        "trial_harm": True,
    }


@pytest.mark.parametrize("segment", ["all", "warm"])
def test_a_loss_of_any_segment_fails_and_is_named(tmp_path, segment):
    trial = replace(TRIAL, over_real={**TRIAL.over_real, segment: BAD})
    harm = _lift_checks(translator(tmp_path, trial=trial), LEAST)[-1]
    assert (harm.name, harm.passed) == ("trial_harm", False)
    assert f"for {segment} users" in harm.detail


def test_a_loss_of_warm_users_that_is_not_sure_passes_and_is_said(tmp_path):
    unsure = Gain(estimate=-0.004, low=-0.02, high=0.012)
    trial = replace(TRIAL, over_real={**TRIAL.over_real, "warm": unsure})
    harm = _lift_checks(translator(tmp_path, trial=trial), LEAST)[-1]
    assert (harm.name, harm.passed) == ("trial_harm", True)
    assert "warm users lose, though not surely: -0.004 nats per event" in harm.detail


def test_with_few_newcomers_all_users_are_asked(tmp_path):
    few = replace(
        TRIAL,
        users={"all": 200, "hidden": 49, "warm": 151},
        over_real={**TRIAL.over_real, "hidden": NOTHING},
    )
    assert outcome(translator(tmp_path, trial=few))["trial_gain"]


def test_with_hardly_anybody_the_trial_cannot_tell(tmp_path):
    lonely = Trial(
        weight_scale=0.03,
        decay_events=0.0,
        users={"all": 1, "hidden": 1, "warm": 0},
        over_real={},
        over_placebo={},
    )
    check = _lift_checks(translator(tmp_path, trial=lonely), LEAST)[-1]
    assert (check.name, check.passed) == ("trial_gain", False)
    assert "too few users" in check.detail
    assert lonely.sentence == "too few users to tell"


def test_without_transfer_there_is_one_failed_check(tmp_path):
    (check,) = _lift_checks(translator(tmp_path, transfers=False, trial=None), LEAST)
    assert (check.name, check.passed, check.value) == ("transfer", False, 0.5)
    assert "nothing transfers" in check.detail


def test_a_saved_trial_is_read_back_and_an_absent_one_is_none(tmp_path):
    assert load_trial(tmp_path) is None
    translator(tmp_path)
    assert load_trial(tmp_path) == TRIAL
