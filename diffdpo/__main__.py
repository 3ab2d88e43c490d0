"""`python -m diffdpo`."""

from diffdpo.cli import main

main()
