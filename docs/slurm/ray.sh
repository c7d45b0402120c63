#!/bin/bash
# One stage, or all of them, on several nodes of a SLURM cluster: sbatch docs/slurm/ray.sh [command]
# Lines that begin with #SBATCH are read by sbatch: change them to fit the cluster. Run it from the project's folder, on a file system that all nodes share.
#SBATCH --job-name=headflow
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --output=headflow-%j.log
#SBATCH --requeue
# When the time is up all is killed at once; no more than the last seconds are lost, and the same script goes on from there.
set -euo pipefail

if [ $# -eq 0 ]; then set -- dvc repro; fi
nodes=${SLURM_JOB_NUM_NODES:-1}
if [ "$nodes" -gt 1 ]; then
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }')
    launch=(srun --nodes="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1)
else
    address=127.0.0.1
    launch=()
fi
port=${HEADFLOW_RAY_PORT:-$((20000 + ${SLURM_JOB_ID:-0} % 20000))}

export RAY_ADDRESS="$address:$port"
export RAY_USAGE_STATS_ENABLED=0
# These nodes are ours alone: workers need not be nicer than the rest.
export RAY_worker_niceness=0
# Only those who know the token may send work to the cluster; it is made for this job and goes with the environment.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

# Ray's own launcher: a head on the first node, workers on the others, the command on the head, and all of it ended after the command.
"${launch[@]}" ray symmetric-run \
    --address "$RAY_ADDRESS" --min-nodes "$nodes" \
    --num-cpus "${SLURM_CPUS_PER_TASK:-$(nproc)}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" --include-dashboard=false --disable-usage-stats \
    -- "$@"
