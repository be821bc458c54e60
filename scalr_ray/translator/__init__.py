"""Translators: models of P(target item | a user's source events, time).

`frequency` is the paper's translator (arXiv 2606.00282, stage 1), repaired: the table is normalised
per source item, the user is left out of their own counts, counts close before the cut, and the
evidence multiplies a time-aware prior instead of replacing it:

    log P(i | u, t) = log prior_t(i) + alpha * log lift_u(i) - log Z

With no transferable signal alpha is 0 and the translator is the prior. Nothing here knows Ray or
Feast; arrays come in, arrays go out.
"""

from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.frequency import FrequencyTranslator, Strength, count_users
from scalr_ray.translator.histories import EventLists, FeaturesAsOf, Users
from scalr_ray.translator.prior_mix import PriorMix
from scalr_ray.translator.protocol import Translator, as_prior, log_likelihood, log_scores
from scalr_ray.translator.storage import load_translator, save_translator

__all__ = [
    "EventLists",
    "FeaturesAsOf",
    "FrequencyTranslator",
    "PriorMix",
    "Strength",
    "Translator",
    "Users",
    "Vocabulary",
    "as_prior",
    "count_users",
    "load_translator",
    "log_likelihood",
    "log_scores",
    "save_translator",
]
