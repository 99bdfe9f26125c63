#!/bin/sh
# Serves BASE with the skills of skills.txt, one NAME=PATCH a line; lines that begin with # are left out.
set -eu
set -- "$BASE" --host 0.0.0.0 --port "${PORT:-7860}" --on-overlap last
while IFS= read -r skill || [ -n "$skill" ]; do
  case $skill in "" | "#"*) ;; *) set -- "$@" --skill "$skill" ;; esac
done < skills.txt
exec graft serve "$@"
