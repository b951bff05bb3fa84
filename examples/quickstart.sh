#!/bin/sh
# The main job, end to end: plan a real branchy model for a mixed cluster and compare planners; then plan a small model
# for two processes on this machine, train it for real, check the result, and write a report. `make quickstart` calls it.
set -eu
BIN=${BIN:-.venv/bin}
OUT=${OUT:-out}
mkdir -p "$OUT"

echo
echo "1/4  Compare planners: Inception-v3 (a branchy model) on 2 A100 + 4 V100 + 2 T4, 5 s each"
"$BIN/drlpp" compare timm:inception_v3 --cluster mixed-a100-v100-t4 --budget 5 \
    --planners drl,data-parallel,uniform,pipedream --json "$OUT/inception.json" --html "$OUT/inception.html"

echo
echo "2/4  Measure a small two-tower model on this machine, op by op"
"$BIN/drlpp" profile examples/two_tower.py:build -o "$OUT/two_tower.graph.json"

echo
echo "3/4  Plan it for two processes on this machine"
"$BIN/drlpp" plan "$OUT/two_tower.graph.json" --cluster local-2 --budget 5 -o "$OUT/two_tower.plan.json"

echo
echo "4/4  Train it for real under that plan, and compare with training in one process"
"$BIN/drlpp" run "$OUT/two_tower.plan.json" --steps 5 --verify --trace "$OUT/two_tower.trace.json"
"$BIN/drlpp" report "$OUT/two_tower.plan.json" -o "$OUT/two_tower.html"

echo
echo "Done. Open these in a browser:"
echo "  $OUT/inception.html   the best plan for Inception-v3 and the comparison"
echo "  $OUT/two_tower.html   the plan that was just trained"
echo "and $OUT/two_tower.trace.json in https://ui.perfetto.dev"
