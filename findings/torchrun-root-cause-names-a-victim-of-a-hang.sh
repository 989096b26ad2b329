#!/usr/bin/env bash
# torch 2.15.0, gloo, three workers on one CPU machine (Python 3.11, Linux), run on 2026-12-01
#
# Expected by most: torchrun's "Root Cause (first observed failure)" names the rank that made the job fail.
# Seen: rank 1 never enters a collective, ranks 0 and 2 time out in it. torchrun names rank 0 or 2 as root cause. Rank 1 raised
# nothing: the agent stops it, and the summary lists it as one of those that ended by SIGTERM, in nothing different from a rank that
# waited and was stopped in time.
# For users: after a time-out in a collective, the culprit is among the ranks that were stopped, not the root cause.
#
# Output seen:
#   root cause: a rank that waited (0 or 2); rank 1, which never entered the collective: not the root cause
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q uv==0.13.9
"$folder/venv/bin/uv" pip install -q --python "$folder/venv/bin/python" torch==2.15.0 numpy==2.4.0
cat > "$folder/hang.py" <<'PYTHON'
import datetime
import os
import time

import torch
import torch.distributed as dist

dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=6))
if os.environ["RANK"] == "1":
    time.sleep(120)  # the fault: this rank never enters the collective
dist.all_reduce(torch.ones(1))
PYTHON
"$folder/venv/bin/torchrun" --nproc-per-node 3 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0 "$folder/hang.py" \
    > "$folder/log" 2>&1 && { echo "torchrun succeeded, a failure was expected"; exit 1; }
rank=$(sed -n '/Root Cause/,$s/.*rank *: \([0-9]*\) (local_rank.*/\1/p' "$folder/log" | head -n 1)
case "$rank" in
    0 | 2) echo "root cause: a rank that waited (0 or 2); rank 1, which never entered the collective: not the root cause" ;;
    *) echo "root cause: rank ${rank:-unknown}; this changed"; exit 1 ;;
esac
