"""The report on a sweep: which configuration is best, which keys matter, and one page that shows all of it.

Everything here reads the folder of a sweep, finished or not, and needs neither torch nor Hydra. Only the figures for
documents (`report.figures`, `report.gallery`) import the style of the package's other figures, and so torch.
"""

from .comparison import Answer, answer
from .write import write_report

__all__ = ["Answer", "answer", "write_report"]
