"""Write the next migration from what has changed in storage/tables.py: python -m migrations "what changes"."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command

from storage.db import open_database, transaction
from storage.schema import alembic_config, head, upgrade


def main() -> None:
    """Compare a scratch database at the newest revision with the declared tables; read what comes out of it."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with TemporaryDirectory() as folder:
        engine = open_database(f"sqlite:///{Path(folder) / 'scratch.db'}")
        upgrade(engine)
        number = f"{int(head()) + 1:04d}"
        with transaction(engine) as connection:
            command.revision(
                alembic_config(connection), message=sys.argv[1], rev_id=number, autogenerate=True
            )
        engine.dispose()


if __name__ == "__main__":
    main()
