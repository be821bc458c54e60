from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import matrix, users_of
from translator_builds import SOURCES, TARGETS, build

from scalr_ray.core.errors import DataError
from scalr_ray.translator import as_prior
from scalr_ray.translator import shortlist as module
from scalr_ray.translator.shortlist import shortlist

users = st.lists(
    st.tuples(
        st.sets(st.integers(0, SOURCES - 1)),
        st.sets(st.integers(0, TARGETS - 1)),
        st.sets(st.integers(0, TARGETS - 1)),  # barred
    ),
    min_size=1,
    max_size=7,
)
alphas = st.sampled_from([0.0, 0.15, 1.0, 2.0])
exponents = st.sampled_from([0.0, 0.5, 1.0, 3.0])
priors = st.lists(st.integers(0, 3), min_size=TARGETS, max_size=TARGETS).filter(any)
some_items = st.lists(st.booleans(), min_size=TARGETS, max_size=TARGETS)


def asked(people):
    source, own, barred = zip(*people, strict=True)
    return (
        users_of(matrix(source, SOURCES), matrix(own, TARGETS)),
        matrix(barred, TARGETS),
    )


def by_hand(translator, users, exponent, barred, allowed, k):
    """Rows of (items, evidence, log norm) by sorting and summing in plain Python."""
    evidence = translator.evidence(users) if translator.alpha else np.zeros((len(users), TARGETS))
    for row in range(len(users)):
        left = [
            item
            for item in range(TARGETS)
            if allowed[item] and translator.prior[item] > 0 and not barred[row, item]
        ]
        score = {
            item: np.float32(exponent) * np.float32(evidence[row, item])
            + translator.log_prior[item]
            for item in left
        }
        ranked = sorted(left, key=lambda item: (-score[item], item))[:k]
        terms = [
            math.exp(
                (float(translator.log_prior[item]) + translator.alpha * evidence[row, item])
                / translator.temperature
            )
            for item in left
        ]
        norm = math.log(math.fsum(terms)) if terms else -math.inf
        yield ranked, [evidence[row, item] for item in ranked], norm


@given(users, alphas, exponents, priors, some_items, st.integers(1, TARGETS - 1), st.floats(0.3, 4))
def test_the_largest_scores_are_listed_and_everything_is_summed(
    people, alpha, exponent, prior, allowed, k, temperature
):
    translator = build(people_of(people), alpha=alpha, prior=prior, temperature=temperature)
    about, barred = asked(people)
    allowed = np.array(allowed)
    got = shortlist(translator, about, k=k, exponent=exponent, barred=barred, allowed=allowed)
    assert got.items.shape == got.evidence.shape == (len(people), k)
    expected = by_hand(translator, about, exponent, barred, allowed, k)
    for row, (items, evidence, norm) in enumerate(expected):
        left = len(items)
        assert got.items[row].tolist() == items + [-1] * (k - left)
        assert got.evidence[row, :left].tolist() == pytest.approx(evidence)
        assert not got.evidence[row, left:].any()
        assert got.log_norm[row] == pytest.approx(norm, abs=1e-5)


@given(users, alphas, priors, some_items, st.integers(TARGETS, TARGETS + 3))
def test_with_room_for_all_items_they_are_listed_by_code(people, alpha, prior, allowed, k):
    translator = build(people_of(people), alpha=alpha, prior=prior)
    about, barred = asked(people)
    allowed = np.array(allowed)
    got = shortlist(translator, about, k=k, exponent=2.0, barred=barred, allowed=allowed)
    assert got.items.shape == (len(people), TARGETS)
    possible = allowed & translator.rankable & (barred.toarray() == 0)
    assert (got.items == np.where(possible, np.arange(TARGETS), -1)).all()


@given(users, alphas, st.integers(1, TARGETS + 1))
def test_chunks_of_users_change_nothing(people, alpha, k):
    translator = build(people_of(people), alpha=alpha)
    about, barred = asked(people)
    everything = np.ones(TARGETS, dtype=bool)
    whole = shortlist(translator, about, k=k, exponent=1.0, barred=barred, allowed=everything)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_SCORES", 2 * TARGETS)
        parts = shortlist(translator, about, k=k, exponent=1.0, barred=barred, allowed=everything)
    for name in ("items", "evidence", "log_norm"):
        assert getattr(whole, name).tobytes() == getattr(parts, name).tobytes()


def test_nobody_gets_an_empty_shortlist():
    about, barred = asked([({0}, set(), set())])
    everything = np.ones(TARGETS, dtype=bool)
    got = shortlist(
        build([({0}, {0})]),
        about.part(0, 0),
        k=3,
        exponent=1.0,
        barred=barred[:0],
        allowed=everything,
    )
    assert (len(got), got.items.shape, got.log_norm.shape) == (0, (0, 3), (0,))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_evidence_that_is_no_number_is_refused(broken, exponent):
    translator = Broken(build([({0}, {0})]), broken)
    about, barred = asked([({0}, set(), set())] * 2)
    everything = np.ones(TARGETS, dtype=bool)
    with pytest.raises(DataError, match=r"frequency translator .* run `scalr train` again"):
        shortlist(translator, about, k=2, exponent=exponent, barred=barred, allowed=everything)
    # What may not be proposed anyway does no harm, nor does what is not asked for.
    without = np.arange(TARGETS) != Broken.ITEM
    for fit in (translator, as_prior(translator)):
        allowed = everything if fit.alpha == 0 else without
        shortlist(fit, about, k=2, exponent=exponent, barred=barred, allowed=allowed)


class Broken:
    """A translator whose evidence of one item and one user is broken."""

    ITEM = 2

    def __init__(self, sound, value):
        self._sound, self._value = sound, value

    def __getattr__(self, name):
        return getattr(self._sound, name)

    def tuned(self, *, alpha, temperature):
        return Broken(self._sound.tuned(alpha=alpha, temperature=temperature), self._value)

    def evidence(self, users):
        evidence = self._sound.evidence(users)
        evidence[-1, self.ITEM] = self._value
        return evidence


def people_of(people):
    return [(source, own) for source, own, _ in people]


def test_of_the_prior_alone_little_that_is_left_is_summed_exactly():
    shares = [1e12, 1e-3, 2e-3, 0.0, 0.0]
    translator = as_prior(build([({0}, {0})], prior=shares, temperature=1.0))
    about, barred = asked([(set(), set(), {0}), (set(), set(), {0, 1, 2})])
    everything = np.ones(TARGETS, dtype=bool)
    got = shortlist(translator, about, k=2, exponent=1.0, barred=barred, allowed=everything)
    assert got.items.tolist() == [[2, 1], [-1, -1]]
    assert got.log_norm[0] == pytest.approx(math.log(3e-3 / sum(shares)), rel=1e-5)
    assert np.isneginf(got.log_norm[1])
