"""The control plane: our PostgreSQL tables and the repositories over them."""

from cloudflux.stores.engine import DatabaseBusy, DatabaseUnreachable, make_engine
from cloudflux.stores.schema import upgrade

__all__ = ["DatabaseBusy", "DatabaseUnreachable", "make_engine", "upgrade"]
