#!/bin/sh
# The floor of a run without work: a person's script that takes a commit through the same stages and, like
# Penstock, writes down each one durably before the next begins.
#     noop.sh UPSTREAM REPOSITORY COMMIT ORIGIN
set -eu
upstream=$1 repository=$2 commit=$3 origin=$4
tree=$origin/work-$commit

done_with() {
    echo "$1" >>"$origin/record"
    sync "$origin/record"
}

done_with accepted
git --git-dir="$repository" fetch --quiet --no-tags --no-auto-gc "$upstream" main
mkdir "$tree"
git --git-dir="$repository" --work-tree="$tree" checkout --quiet --force "$commit" -- .
done_with checkout
cp -R "$tree" "$tree-test"
(cd "$tree-test" && true)
done_with test
(cd "$tree/public" && find . -type f -exec sha256sum {} +) >"$origin/$commit.manifest"
done_with build
cp -R "$tree/public" "$origin/$commit"
find "$origin/$commit" "$origin/$commit.manifest" -exec sync {} +
sync "$origin"
done_with upload
done_with start
ln -s "$commit" "$origin/next"
mv -T "$origin/next" "$origin/live"
sync "$origin"
git --git-dir="$repository" update-ref refs/heads/main "$commit"
done_with deploy
done_with refresh
rm -r "$tree" "$tree-test"
