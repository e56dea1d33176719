#!/usr/bin/env bash
# Measure the bundles BEFORE and AFTER, each twice in turns, and compare them under the conditions FAIL_IF (one per line).
# Exit code: that of `edgekit compare`, 0 or 1 or 2. The table goes to the summary of the job where there is one.
set -euo pipefail
: "${BEFORE:?the bundle to compare with}" "${AFTER:?the bundle to check}"
results="${RESULTS:-bench-gate}"
read -ra options <<<"${BENCH_OPTIONS:-}"

for round in 1 2; do
  edgekit bench "$BEFORE" --output "$results/before/$round" "${options[@]}"
  edgekit bench "$AFTER" --output "$results/after/$round" "${options[@]}"
done

conditions=()
while IFS= read -r line; do
  line="${line#"${line%%[![:space:]]*}"}"
  [ -z "$line" ] || conditions+=(--fail-if "$line")
done <<<"${FAIL_IF:-}"

status=0
edgekit compare "$results/before/2" "$results/after/2" "${conditions[@]}" --markdown >"$results/comparison.md" || status=$?
cat "$results/comparison.md"
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || cat "$results/comparison.md" >>"$GITHUB_STEP_SUMMARY"
exit "$status"
