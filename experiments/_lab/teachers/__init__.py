"""What experiments with a teacher and students share: series of runs, distances, curves along one axis."""
