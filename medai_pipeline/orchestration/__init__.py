"""The only code that imports dagster: assets, checks, sensor, partitions, jobs, resources, IO managers."""
