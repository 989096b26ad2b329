#!/usr/bin/env bash
# pytest-xdist 3.8.0 with pytest 9.2.0 (Python 3.11, Linux), run on 2026-12-01; with pytest 8.4.2, 9.0.0 and 9.1.0 it works
#
# Expected by most: with --dist loadgroup, tests marked xdist_group("name") run in one worker, as its documentation describes.
# Seen: under pytest 9.2.0 the groups are ignored without a warning: xdist puts the group into the private attribute _nodeid of an
# item, which pytest 9.2 no longer reads. Tests that share a port, a folder or a server by group then meet each other at random.
#
# Output seen:
#   pytest 9.1.0: tests of one group ran in one worker
#   pytest 9.2.0: tests of one group ran in several workers
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/test_group.py" <<'PYTHON'
import os
import time

import pytest

pytestmark = pytest.mark.xdist_group("one")


@pytest.mark.parametrize("number", range(30))
def test_records_its_worker(number):
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
    time.sleep(0.05)
PYTHON
for version in 9.1.0 9.2.0; do
    "$folder/venv/bin/pip" install -q "pytest==$version" pytest-xdist==3.8.0
    SEEN=$folder/seen-$version "$folder/venv/bin/python" -m pytest -q -n 3 --dist loadgroup "$folder/test_group.py" >/dev/null
    [ "$(sort -u "$folder/seen-$version" | wc -l)" = 1 ] && workers="one worker" || workers="several workers"
    echo "pytest $version: tests of one group ran in $workers"
done | tee "$folder/output"
diff <(sed -n 's/^#   \(pytest 9\)/\1/p' "$0") "$folder/output" && echo "as described"
