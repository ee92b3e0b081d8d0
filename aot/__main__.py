"""`python -m aot`: the command `aot`, where its script is not on the PATH."""

from aot.cli.main import main

main()
