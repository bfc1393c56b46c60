"""Run by Alembic: migrates on the connection that `upgrade` hands over, in the transaction it has begun."""

from alembic import context

from penstock_pipeline.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
