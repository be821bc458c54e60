"""What every room shares: errors, event schema, time, configuration, fingerprints, keyed draws.

Nothing here imports Feast, Ray or torch, so that `scalr --help` starts in a fraction of a second.
"""
