"""What every room shares: errors, the event schema, time, configuration, fingerprints, keyed randomness.

Nothing here imports Feast, Ray or torch, so that `scalr --help` starts in a fraction of a second.
"""
