#!/bin/bash
# One suite on the nodes of a Slurm allocation: sbatch --nodes=4 docs/slurm_ray.sh quick
# The results folder lies on a file system that all nodes see. The same command resumes.
#SBATCH --job-name=sharpbench
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_USAGE_STATS_ENABLED=0 RAY_ADDRESS="$head:6379"
srun ray symmetric-run --address "$RAY_ADDRESS" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  sharpbench run "$@" --engine ray
