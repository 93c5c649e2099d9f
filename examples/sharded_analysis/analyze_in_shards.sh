#!/bin/bash
# Analyses an input in N shards, each by a process of its own, and merges them: the same bits as one process.
#   analyze_in_shards.sh N OUT_DIR INPUT [OPTION...]
# MOETAP names the program (default: moetap), WORKERS how many run at once (default: one a core). On a cluster each task
# runs the line of the worker with its own I: Spark's mapPartitions, a Slurm array (I=$SLURM_ARRAY_TASK_ID), Ray, make.
set -euo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 N OUT_DIR INPUT [OPTION...]" >&2
  exit 2
fi
count=$1 out=$2
shift 2
moetap=${MOETAP:-moetap}
partials=$(mktemp -d "$(dirname "$out")/.shards-XXXXXX")
trap 'rm -rf "$partials"' EXIT

# The worker. xargs ends with an error if one of them fails; a shard may be repeated alone.
seq 0 $((count - 1)) | xargs -P "${WORKERS:-$(nproc)}" -I{} \
  "$moetap" analyze "$@" --shard "{}/$count" --threads 1 -o "$partials/{}" > "$partials/log"

# In any order: the sums are exact.
find "$partials" -name partial.bin | shuf | xargs "$moetap" analyze -o "$out" --merge
