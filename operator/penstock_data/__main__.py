"""`penstock-data`, `python -m penstock_data`."""

from penstock_data.cli import main

if __name__ == "__main__":
    main()
