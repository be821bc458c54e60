"""Feast definitions: entities, sources, feature views and feature services, and nothing else.

`feast apply` in this folder registers them. Feast loads the files as top-level modules
(`entities`, `sources`, ...), whatever the folder is called; Python loads them as
`feature_repo.entities` and so on. Each file imports its neighbours in the way that fits.
"""
