#!/usr/bin/env bash
# Every measurement and check that needs a GPU, in under nine minutes on one, without a network.
#
#   scripts/gpu_check.sh [OUT]           # on a GPU; OUT (default: runs/gpu_check) gets one JSON file per check
#   scripts/gpu_check.sh [OUT] --tiny    # the same on a CPU, on models of a few million weights: a rehearsal
#
# Each check is a process of its own with a limit of time, so that one which crashes or hangs loses nothing of the
# others; each writes its file as soon as it is done. The exit status is 0 if all of them passed, and else 1.
set -u
here="$(cd "$(dirname "$0")" && pwd)"
python="${PYTHON:-python}"
out="runs/gpu_check"
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
  out="$1"
  shift
fi
mkdir -p "$out"
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$out/compiled}"
end=$((SECONDS + ${SECONDS_IN_ALL:-530}))
limit="${SECONDS_PER_CHECK:-150}"
checks="$("$python" "$here/gpu_check.py" --list)" || exit 1
worst=0
for check in $checks; do
  rm -f "$out/$check.json"
  left=$((end - SECONDS))
  if [ "$left" -lt 5 ]; then
    echo "$check: no time left"
    worst=1
    continue
  fi
  [ "$left" -gt "$limit" ] && left="$limit"
  began=$SECONDS
  timeout -k 5 "$left" "$python" "$here/gpu_check.py" "$check" --out "$out" "$@" >"$out/$check.log" 2>&1
  status=$?
  echo "$check: status $status after $((SECONDS - began)) s"
  if [ "$status" -ne 0 ]; then
    worst=1
    tail -n 3 "$out/$check.log"
  fi
done
exit "$worst"
