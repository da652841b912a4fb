"""Entry point of `python -m runner`. Help is printed without Hydra, which takes most of a second to import."""

import sys

if {"--help", "-h"} & set(sys.argv[1:]):
    from runner.config.help import print_help

    print_help(sys.argv[1:])
else:
    from runner.cli import main

    main()
