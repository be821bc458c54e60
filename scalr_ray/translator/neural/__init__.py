"""The neural translator: a causal transformer over a user's events, one device, no Ray.

One sequence per user holds the source events and the user's own target events in order of
appearance. What a time t may see is a prefix of it, so that the state of the last visible token
holds nothing that could not have been known; a query adds the time since then and the user's
features as of t:

    log P(i | u, t) = log prior_t(i) + <state(u, t), vector(i)> - log Z

Importing this package loads torch; nothing outside of it and of `scalr_ray.learn.neural` does.
"""
