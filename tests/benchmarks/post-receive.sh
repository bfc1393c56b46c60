#!/bin/sh
# A person's own deploy: checks out what was pushed and starts the app anew. Nobody is answered in between, and
# nothing tells whether it came up. Git starts this in the repository's folder.
set -eu
. ./deploy.env
while read -r _ commit _; do
    git --work-tree=live checkout --quiet --force "$commit" -- .
    if [ -f pid ]; then kill -9 "$(cat pid)"; fi
    (cd live && exec "$python" serve.py) >live.log 2>&1 </dev/null &
    echo $! >pid
done
