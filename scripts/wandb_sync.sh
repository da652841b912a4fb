#!/usr/bin/env bash
# Uploads runs that were written offline to Weights & Biases, each once. For clusters whose nodes have no network.
#   scripts/wandb_sync.sh [--dry-run] [--all] [outputs]
# --dry-run lists what would be uploaded. --all takes also runs whose state.json says that they are under way, if no process
# works on them: killed ones, not started again. A run that was resumed has several files: they are appended, in order.
# Exit code: 0; 1 where an upload failed, the others being done; 2 for a mistake, or where there is no key or no server.
set -euo pipefail

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
PATH=$root/.venv/bin:$PATH

usage() {
    sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

all='' dry='' outputs=''
for argument in "$@"; do
    case $argument in
    --all) all=1 ;;
    --dry-run) dry=1 ;;
    -*) usage ;;
    *) [[ -z $outputs ]] || usage; outputs=$argument ;;
    esac
done
outputs=$(realpath -m "${outputs:-$root/outputs}")
[[ -d $outputs ]] || { echo "there is no folder $outputs" >&2; exit 2; }

under_way() { # the runner removes state.json at the end, and writes another state when it fails or is interrupted
    grep -qs '"state": "running"' "$1/state.json"
}

killed() {
    ! under_way "$1" || flock -n "$1/.lock" true
}

todo=() synced=0 waiting=0
while IFS= read -r -d '' file; do
    if [[ -e $file.synced ]]; then # W&B's own mark
        synced=$((synced + 1))
    elif under_way "${file%/wandb/*}" && { [[ -z $all ]] || ! killed "${file%/wandb/*}"; }; then
        waiting=$((waiting + 1))
    else
        todo+=("$file")
    fi
done < <(find "$outputs" -path '*/wandb/offline-run-*/*.wandb' -type f -size +7c -print0 | sort -z) # 7 bytes: a header

if [[ -n $dry ]]; then
    ((${#todo[@]} == 0)) || printf '%s\n' "${todo[@]%/*}"
    echo "would be uploaded: ${#todo[@]}, before: $synced, under way or killed: $waiting"
    exit 0
fi

if ((${#todo[@]})); then
    wandb=$(command -v wandb) || { echo "there is no wandb on PATH: activate the project's environment" >&2; exit 2; }
    (cd "$root" && "${wandb%/*}/python" -m scripts.wandb_server) || exit 2
    WANDB_DIR=$(mktemp -d) # for W&B's own logs
    export WANDB_DIR WANDB_SILENT=false
    trap 'rm -rf "$WANDB_DIR"' EXIT
fi

# W&B neither marks the file of a process that was killed, which it has uploaded up to where it breaks off, nor goes on to
# the next file of that run: so we mark it, and call again. Its exit code says nothing of single runs: the marks do.
left=("${todo[@]}") cut=1
while ((${#left[@]} && cut)); do
    wandb sync "${left[@]}" 2>&1 | tee "$WANDB_DIR/printed" || true
    failed=() cut=0
    for file in "${left[@]}"; do
        folder=${file%/*}
        if [[ -e $file.synced ]]; then
            continue
        elif grep -qF "${folder##*/}\": the file ends with an incomplete record" "$WANDB_DIR/printed"; then
            touch "$file.synced"
            cut=1
        else
            failed+=("$file")
        fi
    done
    left=("${failed[@]}")
done

echo "uploaded: $((${#todo[@]} - ${#left[@]})), before: $synced, under way or killed: $waiting, failed: ${#left[@]}"
((${#left[@]} == 0)) || { printf 'failed: %s\n' "${left[@]%/*}" >&2; exit 1; }
