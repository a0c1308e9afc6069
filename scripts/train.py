"""Entry point of `ncsn-train`."""

from ncsn_lightning.cli import train

if __name__ == "__main__":
    train()
