"""Entry point of `ncsn-sample`."""

from ncsn_lightning.cli import sample

if __name__ == "__main__":
    sample()
