"""Write a sweep's page and table: `python scripts/report.py outputs/sweeps/NAME`."""

from ncsn_lightning.report.command import report

if __name__ == "__main__":
    report()
