"""Learning: from two event sets and a cut to a fitted, calibrated translator.

`fit_translator` counts before the validation cut, chooses the strength on the validation window,
checks on users it did not choose on that the evidence helps, and refits the counts up to the train
cutoff. `scalr_ray.learn.neural` does the same with a network, on Ray Train.
"""

from scalr_ray.learn.counts import Counting, translator_as_of
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.learn.fit import FittedTranslator, Grid, fit_translator
from scalr_ray.learn.prior import fit_prior, with_prior_as_of
from scalr_ray.learn.strength import (
    Calibration,
    Chosen,
    calibration,
    choose_strength,
    mean_likelihood,
)
from scalr_ray.learn.window import Window, validation_window

__all__ = [
    "Calibration",
    "Chosen",
    "CodedEvents",
    "Counting",
    "FittedTranslator",
    "Grid",
    "TrainingEvents",
    "Window",
    "calibration",
    "choose_strength",
    "fit_prior",
    "fit_translator",
    "mean_likelihood",
    "translator_as_of",
    "validation_window",
    "with_prior_as_of",
]
