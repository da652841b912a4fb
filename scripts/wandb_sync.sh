#!/usr/bin/env bash
# Upload runs that were recorded offline to Weights & Biases, each once. For clusters whose nodes have no network.
#   scripts/wandb_sync.sh [--dry-run] [--all] [outputs]
# --dry-run lists the files to upload. --all also uploads runs whose state.json says `running` although no process runs
# them, which were killed and not started again. A resumed run has several files, which are appended in order.
# Exit code: 0; 1 if an upload failed (the others are uploaded); 2 for a mistake, or without a key or server.
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

# state.json says `running` until the run ends: the runner then removes it, or writes `failed` or `interrupted`.
under_way() {
    grep -qs '"state": "running"' "$1/state.json"
}

# No process holds the lock of the run.
killed() {
    ! under_way "$1" || flock -n "$1/.lock" true
}

todo=() synced=0 waiting=0
while IFS= read -r -d '' file; do
    if [[ -e $file.synced ]]; then # W&B marks uploaded files so
        synced=$((synced + 1))
    elif under_way "${file%/wandb/*}" && { [[ -z $all ]] || ! killed "${file%/wandb/*}"; }; then
        waiting=$((waiting + 1))
    else
        todo+=("$file")
    fi
done < <(find "$outputs" -path '*/wandb/offline-run-*/*.wandb' -type f -size +7c -print0 | sort -z) # 7 bytes are a header alone

if [[ -n $dry ]]; then
    ((${#todo[@]} == 0)) || printf '%s\n' "${todo[@]%/*}"
    echo "to upload: ${#todo[@]}, uploaded before: $synced, under way or killed: $waiting"
    exit 0
fi

if ((${#todo[@]})); then
    wandb=$(command -v wandb) || { echo "there is no wandb on PATH: activate the project's environment" >&2; exit 2; }
    (cd "$root" && "${wandb%/*}/python" -m scripts.wandb_server) || exit 2
    WANDB_DIR=$(mktemp -d) # for W&B's own logs
    export WANDB_DIR WANDB_SILENT=false
    trap 'rm -rf "$WANDB_DIR"' EXIT
fi

# The file of a killed process ends in the middle of a record. W&B uploads it up to there, but neither marks it nor goes
# on to the next file of the run. So this script marks it and calls W&B again. W&B's exit code says nothing about single
# runs, its marks do.
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

echo "uploaded: $((${#todo[@]} - ${#left[@]})), uploaded before: $synced, under way or killed: $waiting, failed: ${#left[@]}"
((${#left[@]} == 0)) || { printf 'failed: %s\n' "${left[@]%/*}" >&2; exit 1; }
