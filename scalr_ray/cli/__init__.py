"""The `scalr` command: parsing, tables and exit codes; every verb is one call of the SDK."""
