"""What a sweep says: which configuration is best, what matters, and one page that shows all of it.

Everything here reads the sweep's folder, finished or not, and needs neither torch nor Hydra; only the pictures for
documents (`report.figures`) share the style of the package's other figures, and so their imports.
"""

from .comparison import Answer, answer
from .write import write_report

__all__ = ["Answer", "answer", "write_report"]
