"""sbatch scripts and SLURM jobs."""
