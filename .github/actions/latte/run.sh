#!/usr/bin/env bash
# The steps of the action: `run.sh install|baseline|estimate|compare|comment|verdict`. What they are told comes in
# variables LATTE_..., never in the text of a command, and their files lie in .latte.
set -euo pipefail
readonly FOLDER=.latte
readonly EXCEEDED=3 # latte's code for a threshold that was exceeded
mkdir -p "$FOLDER"

install() {
  pip install --quiet "$LATTE_PACKAGE" --extra-index-url https://download.pytorch.org/whl/cpu
  latte --version
}

# The newest artefact of the branch that the change goes to; none is no fault.
baseline() {
  local run
  run=$(gh run list --branch "$LATTE_BRANCH" --status success --event push --limit 20 --json databaseId \
    --jq '.[].databaseId' || true)
  for one in $run; do
    if gh run download "$one" --name "$LATTE_ARTEFACT" --dir "$FOLDER/baseline" 2>/dev/null; then
      return
    fi
  done
  echo "::notice title=latte::the branch $LATTE_BRANCH has no estimate yet, so nothing is compared"
}

# The profile is copied once into a store of the workspace, which the cache keeps with what is learned from it.
estimate() {
  local words=("$LATTE_MODEL" --device "$LATTE_DEVICE" --store "$FOLDER/store" --format json) more
  [ -z "$LATTE_BATCH_SIZE" ] || words+=(--batch-size "$LATTE_BATCH_SIZE")
  read -ra more <<<"$LATTE_OPTIONS"
  if [ -n "$LATTE_PROFILE" ] && [ ! -d "$FOLDER/store" ]; then
    latte store merge "$LATTE_PROFILE" --store "$FOLDER/store"
  fi
  mkdir -p "$FOLDER/store"
  latte estimate "${words[@]}" "${more[@]}" >"$FOLDER/estimate.json"
}

# Writes the comment, annotations and outputs; the verdict comes in a step of its own, after the comment.
compare() {
  local files=("$FOLDER/estimate.json") limits=(--annotate github) code=0
  [ -z "$LATTE_FAIL_ABOVE" ] || limits+=(--fail-above "$LATTE_FAIL_ABOVE")
  if [ -f "$FOLDER/baseline/estimate.json" ]; then
    files=("$FOLDER/baseline/estimate.json" "${files[@]}")
    limits+=(--max-regression "$LATTE_MAX_REGRESSION")
  fi
  [ "${#limits[@]}" -gt 2 ] || limits=()
  latte compare "${files[@]}" "${limits[@]}" --format markdown >"$FOLDER/comment.md" || code=$?
  if [ "$code" = 1 ] && [ "${#files[@]}" = 2 ]; then
    # the workflow asks otherwise than the baseline did: the next run of the branch writes a new one
    echo "::warning title=latte::the estimate of the main branch cannot be compared with this one; see the log"
    rm -r "$FOLDER/baseline"
    compare
    return
  fi
  [ "$code" = 0 ] || [ "$code" = "$EXCEEDED" ] || return "$code"
  cat "$FOLDER/comment.md" >>"$GITHUB_STEP_SUMMARY"
  {
    echo "step-s=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["estimates"][0]["totals"]["step_s"])' \
      "$FOLDER/estimate.json")"
    echo "regressed=$([ "$code" = 0 ] && echo false || echo true)"
  } >>"$GITHUB_OUTPUT"
}

comment() {
  gh pr comment "$LATTE_PULL_REQUEST" --body-file "$FOLDER/comment.md" --edit-last --create-if-none
}

verdict() {
  [ "$LATTE_REGRESSED" != true ] || { echo "a limit was exceeded: see the comment" >&2; exit "$EXCEEDED"; }
}

"$1"
