"""From a Feast data source to rows: a relation in a DuckDB session, or pieces for a cluster.

```
find.py      from a source to its rows, whatever kind it is
reading.py   what is read, and the face that every kind of source shows
files.py     FileSource: Parquet files on local disk or in S3
  paths.py     which files those are, and what the names of their folders say
  parquet.py   many files as one relation
iceberg.py   IcebergSource: Iceberg tables
  iceberg_table.py   the table behind it, at a snapshot
iceberg_append.py  new rows for them
postgres.py  PostgreSQLSource: tables and queries
  postgres_types.py   how a column is read
  postgres_append.py  new rows in a table
  postgres_server.py  the connection and its errors
```

Only the wanted columns and rows are read: bounds on times go down into the Parquet row groups or
the Iceberg manifests, few keys into the manifests. A source that has no data yet (a folder or
pattern without files, a table nobody has created) is legal and is told apart from one that is
broken.

Tasks of a cluster read pieces, and shall not wait seconds for Feast to be imported: this package
imports nothing, and what pieces need imports Feast only for its types.
"""
