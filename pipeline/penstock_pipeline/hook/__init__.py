"""`penstock hook`: the post-receive hook of a git repository kept elsewhere, which tells Penstock of pushes.

Every push is first kept in a spool beside the repository, then sent by a process that goes on when the push
is over and Penstock is away: nothing is lost, order is kept, and no push waits for Penstock. The standard
library alone, to start fast and to run where nothing else of Penstock is installed.
"""
