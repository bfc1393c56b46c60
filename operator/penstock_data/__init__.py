"""The pooled data service: HTTP over one connection pool."""
