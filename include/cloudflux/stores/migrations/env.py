"""Alembic's entry: run the revisions on the connection that ``cloudflux.stores.schema`` passes in."""

from __future__ import annotations

from alembic import context

from cloudflux.stores.tables import CONTROL, STAGING, Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError(
        "revisions are run by cloudflux.stores.upgrade(url), or by `./cloudflux up`, not by alembic itself"
    )


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "schema" or name in (CONTROL, STAGING)


context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table="schema_version",
    version_table_schema=CONTROL,
    include_schemas=True,
    include_name=_ours,
    compare_type=True,
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
