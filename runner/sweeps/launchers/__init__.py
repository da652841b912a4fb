"""Launchers of a sweep's runs: worker processes of this machine, or jobs of a SLURM cluster.

A launcher is instantiated from conf/hydra/launcher. Its `launch(tasks, folder)` runs the tasks and yields each one when
it has ended, however it ended; or it hands them to a queue and yields nothing. The outcome of a task lies in its run's
folder; `folder` is for the launcher's own files.
"""
