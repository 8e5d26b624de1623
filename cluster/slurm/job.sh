#!/usr/bin/env bash
# A job from start to end: Ray on every node, `plca` here on the first, and what becomes of the job when that ends.
# train.sbatch and tune.sbatch become this. All of it is a function, for bash would read on in a file that was edited.
set -uo pipefail

say() { echo "job: $*"; }
alive() { kill -0 "$1" 2>/dev/null; }
everywhere() { srun --overlap --cpu-bind=none --kill-on-bad-exit=0 -N "$SLURM_NNODES" -n "$SLURM_NNODES" "$@"; }

# Whether no node's Ray has ended.
whole() { alive "$nodes" && ! grep -qs '^node.sh: ' "$PLCA_LOGS/start.log"; }

notices=0 driver=''
# Once, and to the driver alone: a second signal would tell it not to wait for its checkpoint.
notice() {
    if ((++notices == 1)); then
        say "told to leave"
        if [[ $driver ]]; then kill -USR2 "$driver"; fi
    fi
}

main() {
    local here code names nodes ready
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    export PLCA_SITE=${PLCA_SITE:-$here/site.sh}
    # shellcheck source=site.sh
    . "$PLCA_SITE" || exit 2
    trap notice USR2 TERM

    export PLCA_PORT=$((20000 + SLURM_JOB_ID % 4000 * 3)) # three of it; below those that systems hand out
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
    RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n')
    RAY_ADDRESS=$(address):$PLCA_PORT
    export RAY_ADDRESS PLCA_LOGS=$PWD/plca-$SLURM_JOB_ID.ray
    export PLCA_CLUSTER_FIXED=1 # a run that does not fit must not wait for more nodes
    # Nobody else reads what Ray logs, nor the token, which is there for whoever wants to look at this Ray. Runs are
    # written by the umask that the job was submitted with.
    (umask 077 && mkdir -p "$PLCA_LOGS" && chmod 700 "$PLCA_LOGS" && echo "$RAY_AUTH_TOKEN" >"$PLCA_LOGS/token")
    mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    say "$SLURM_JOB_ID, attempt $((${SLURM_RESTART_COUNT:-0} + 1)), on ${names[*]}"

    coproc NODES { everywhere "$here/node.sh" >"$PLCA_LOGS/start.log" 2>&1; }
    nodes=$NODES_PID
    "${container[@]}" python - "$start_s" "${names[@]}" <"$here/ready.py" &
    ready=$!
    while alive "$ready" && whole && ((!notices)); do sleep 1; done
    if ((notices)); then
        code=85
        kill "$ready" 2>/dev/null
    elif whole && wait "$ready"; then
        "${container[@]}" plca "$@" &
        driver=$!
        if ((notices)); then kill -USR2 "$driver"; fi
        while alive "$driver"; do sleep 1; done
        wait "$driver"
        code=$?
        # Signals from before the driver could answer them kill it.
        if ((notices && (code == 128 + $(kill -l USR2)))); then code=85; fi
    else
        code=1
        kill "$ready" 2>/dev/null
        say "Ray did not start on all nodes; the end of $PLCA_LOGS/start.log:"
        grep -v $'\tINFO ' "$PLCA_LOGS/start.log" | tail -n 20
    fi
    if ((code != 0 && code != 85)); then
        everywhere "$here/node.sh" logs 2>/dev/null
        say "exit code $code; Ray's logs of all nodes are in $PLCA_LOGS"
    fi

    if alive "$nodes"; then exec {NODES[1]}>&-; fi # the end of the nodes' input
    while alive "$nodes"; do wait "$nodes"; done # a signal ends a wait
    rm -f "$PLCA_LOGS/token"
    if ((code == 85)); then requeue; fi
    exit "$code"
}

requeue() {
    # A job that somebody cancels is told to leave too, and would rise from the dead.
    if [[ $(scontrol show job "$SLURM_JOB_ID") != *JobState=RUNNING* ]]; then
        say "not requeued: it is being ended"
    elif scontrol requeue "$SLURM_JOB_ID"; then
        say "requeued"
    else
        say "not requeued; the same sbatch command continues the run"
    fi
}

main "$@"
