"""The operator: ConnectionPool custom resources to running data services."""
