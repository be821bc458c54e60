"""Runs, translators, batches and the verdicts on them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "scalr_runs",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("config_fingerprint", sa.Text, nullable=False),
        sa.Column("config_json", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False, index=True),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error_code", sa.Text),
        sa.Column("metrics_json", sa.Text, nullable=False),
        sa.Column("code_version", sa.Text, nullable=False),
    )
    op.create_table(
        "scalr_translators",
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, sa.ForeignKey("scalr_runs.run_id"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("train_cutoff", sa.BigInteger, nullable=False),
        sa.Column("config_fingerprint", sa.Text, nullable=False),
        sa.Column("data_fingerprint", sa.Text, nullable=False),
        sa.Column("metrics_json", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "scalr_batches",
        sa.Column("batch_id", sa.Text, primary_key=True),
        sa.Column("run_id", sa.Text, sa.ForeignKey("scalr_runs.run_id"), nullable=False),
        sa.Column(
            "translator_version",
            sa.Text,
            sa.ForeignKey("scalr_translators.version"),
            nullable=False,
        ),
        sa.Column("state", sa.Text, nullable=False, index=True),
        sa.Column("as_of", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("snapshot_id", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "scalr_verdicts",
        # SQLite counts up only a column that is exactly INTEGER.
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column(
            "batch_id",
            sa.Text,
            sa.ForeignKey("scalr_batches.batch_id"),
            nullable=False,
            index=True,
        ),
        sa.Column("check_name", sa.Text, nullable=False),
        sa.Column("passed", sa.Boolean, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
