"""One file per version of the schema; the list is in ``store.schema.REVISIONS``."""
