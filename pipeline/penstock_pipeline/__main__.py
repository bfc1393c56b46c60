"""`python -m penstock_pipeline` is `penstock`."""

from .cli import main

main()
