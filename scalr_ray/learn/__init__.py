"""Learning: from two event sets and a cut to a fitted, calibrated translator.

`fit_translator` counts before the validation cut, chooses the strength on the validation window,
checks on users it did not choose on that the evidence helps, and refits the counts up to the train
cutoff.
"""

from scalr_ray.learn.counts import translator_as_of
from scalr_ray.learn.events import CodedEvents, TrainingEvents
from scalr_ray.learn.fit import FittedTranslator, Grid, fit_translator

__all__ = [
    "CodedEvents",
    "FittedTranslator",
    "Grid",
    "TrainingEvents",
    "fit_translator",
    "translator_as_of",
]
