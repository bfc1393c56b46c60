"""The connection pool and the compute pool."""
