"""Who runs a run, which translators must be trained again, pins, and erasures."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns that may be empty, and three tables."""
    op.add_column("scalr_runs", sa.Column("owner_host", sa.Text))
    op.add_column("scalr_runs", sa.Column("owner_pid", sa.BigInteger))
    op.add_column("scalr_runs", sa.Column("owner_started_at", sa.BigInteger))
    op.add_column("scalr_translators", sa.Column("flagged", sa.Text))
    op.create_table(
        "scalr_pins",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("snapshot_id", sa.BigInteger),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("manifest_fingerprint", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "scalr_erasures",
        sa.Column("erasure_id", sa.Text, primary_key=True),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("report_json", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
    )
    op.create_table(
        "scalr_erased_subjects",
        sa.Column(
            "erasure_id", sa.Text, sa.ForeignKey("scalr_erasures.erasure_id"), primary_key=True
        ),
        sa.Column("subject", sa.Text, primary_key=True, index=True),
    )
