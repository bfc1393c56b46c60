"""The operator: ConnectionPool custom resources to running data services.

One look at a pool is one function (`reconcile`), the same for whatever happened, and it may be repeated at
any time; nothing is remembered that the cluster knows. Each module answers one question:

    handlers    when?   kopf's events, of pools and of what belongs to them, ring at the agenda
    agenda      when again, at most how often?
    reconcile   what is done in a look: read, decide, apply, tell
    cluster     how is it reached? The only place that talks to the apiserver
    status      what is told?               pure
    desired     what should be there?       pure
    spec        what is asked for?          pure
"""
