"""Entry point of `ncsn-evaluate`."""

from ncsn_lightning.cli import evaluate

if __name__ == "__main__":
    evaluate()
