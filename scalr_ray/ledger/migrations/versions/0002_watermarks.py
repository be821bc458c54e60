"""How far batches saw each source domain, and which they replace."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create two more tables."""
    op.create_table(
        "scalr_watermarks",
        sa.Column("batch_id", sa.Text, sa.ForeignKey("scalr_batches.batch_id"), primary_key=True),
        sa.Column("domain", sa.Text, primary_key=True),
        sa.Column("seen_up_to", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "scalr_replacements",
        sa.Column("batch_id", sa.Text, sa.ForeignKey("scalr_batches.batch_id"), primary_key=True),
        sa.Column(
            "replaced_id", sa.Text, sa.ForeignKey("scalr_batches.batch_id"), primary_key=True
        ),
    )
