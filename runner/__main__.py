"""Entry point of `python -m runner`. Help is printed without Hydra, which takes most of a second to import."""

import os
import sys

# Threads that wait by spinning take the cores of other processes: with two threads on two busy cores, pruning took five
# times the processor time. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if {"--help", "-h"} & set(sys.argv[1:]):
    from runner.config.help import print_help

    print_help(sys.argv[1:])
else:
    from runner.cli import main

    main()
