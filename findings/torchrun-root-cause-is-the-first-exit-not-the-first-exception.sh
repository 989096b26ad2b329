#!/usr/bin/env bash
# torch 2.15.0, two workers on one CPU machine (Python 3.11, Linux), run on 2026-12-01
#
# Expected by most: the "first observed failure" is the first exception.
# Seen: it is the first process that has gone. A rank that raises first and needs 4 s to end (an atexit handler here; data loader
# workers or a checkpoint thread in practice) is named after, or instead of, a rank that raised 1.5 s later and ended at once.
# Without torch's @record decorator no time of the exception exists anywhere, so the summary cannot be corrected afterwards.
#
# Output seen:
#   rank 1 raised first, root cause: rank 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uv==0.13.9
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" torch==2.15.0 numpy==2.4.0
cat > "$folder/late.py" <<'PYTHON'
import atexit
import os
import time

if os.environ["RANK"] == "1":
    atexit.register(time.sleep, 4)
    raise ValueError("first")
time.sleep(1.5)
raise RuntimeError("second")
PYTHON
"$folder/venv/bin/torchrun" --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0 "$folder/late.py" \
    > "$folder/log" 2>&1 && { echo "torchrun succeeded, a failure was expected"; exit 1; }
rank=$(sed -n '/Root Cause/,$s/.*rank *: \([0-9]*\) (local_rank.*/\1/p' "$folder/log" | head -n 1)
echo "rank 1 raised first, root cause: rank ${rank:-unknown}"
[ "$rank" = 0 ]
