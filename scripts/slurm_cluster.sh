#!/usr/bin/env bash
# SLURM cluster of this machine alone, to try sweeps on: munged, slurmctld and slurmd run as you, all files in one folder.
#   eval "$(scripts/slurm_cluster.sh up [folder])"    start it, and let this shell's sbatch, squeue and scontrol find it
#   scripts/slurm_cluster.sh down [folder]            end its jobs and its daemons
# Jobs of the partition `urgent` preempt those of `main`, the default, which are requeued.
# Needs Debian's packages: apt-get install slurm-wlm munge. There is no accounting, so sacct shows nothing.
# CPUS=<n> declares a number of cores that may differ from the machine's.
set -euo pipefail

command=${1:-}
folder=$(realpath -m "${2:-${TMPDIR:-/tmp}/slurm-$(id -un)}")
PATH=$PATH:/usr/sbin:/sbin

# Write slurm.conf. config_overrides makes SLURM use the declared cores; without it, a node that has fewer is drained.
configure() {
    local host cpus memory port
    host=$(hostname -s) cpus=${CPUS:-$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)} memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024))
    read -r port <<<"$(python3 -c 'import socket
taken = [socket.socket() for _ in range(2)]
for s in taken: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in taken))')"
    cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${port% *}
SlurmdPort=${port#* }
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=300
KillWait=15
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=15
PartitionName=urgent Nodes=$host MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF
CONF
}

up() {
    local program
    for program in munged slurmctld slurmd sbatch; do
        command -v "$program" >/dev/null || { echo "$program is not installed: apt-get install slurm-wlm munge" >&2; exit 1; }
    done
    if [[ -f $folder/slurm.conf ]] && SLURM_CONF=$folder/slurm.conf sinfo -h >/dev/null 2>&1; then
        echo "the cluster is running already" >&2
    else
        mkdir -p "$folder/state" "$folder/spool"
        chmod 700 "$folder"
        configure
        [[ -f $folder/munge.key ]] || (umask 077; head -c 128 /dev/urandom >"$folder/munge.key")
        munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
            --log-file "$folder/munged.log" --seed-file "$folder/munged.seed" 2>"$folder/munged.err" ||
            { cat "$folder/munged.err" >&2; exit 1; }
        export SLURM_CONF=$folder/slurm.conf
        slurmctld -i -c
        slurmd -c
        for _ in $(seq 100); do
            [[ $(sinfo -h -o %T 2>/dev/null) == idle ]] && break
            sleep 0.2
        done
        [[ $(sinfo -h -o %T 2>/dev/null) == idle ]] || { tail -n 5 "$folder"/slurm*.log >&2; down; exit 1; }
    fi
    echo "export SLURM_CONF=$folder/slurm.conf PATH=\$PATH:/usr/sbin"
}

down() {
    local name pid
    if [[ -f $folder/slurm.conf ]]; then
        SLURM_CONF=$folder/slurm.conf timeout 10 scancel --full --signal=KILL --state=RUNNING --user "$(id -un)" 2>/dev/null || true
        SLURM_CONF=$folder/slurm.conf timeout 10 scancel --user "$(id -un)" 2>/dev/null || true
    fi
    for name in slurmd slurmctld munged; do
        [[ -f $folder/$name.pid ]] || continue
        pid=$(<"$folder/$name.pid")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null || true
    done
    rm -rf "$folder"
}

case $command in
up | down) "$command" ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
