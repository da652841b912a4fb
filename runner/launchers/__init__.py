"""Where the runs of a sweep are carried out: worker processes of this machine, or jobs of a SLURM cluster.

A launcher is made from conf/hydra/launcher. Its `launch(tasks, place)` carries the tasks out, yielding each one when it
has ended, however it ended, or hands them to a queue and yields nothing. What came of a task lies in its run's folder;
`place` is a folder for the launcher's own files.
"""
