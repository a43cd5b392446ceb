"""Sample data: words and names in handwriting-style fonts, written as a data set in the Kaggle layout."""

from components.tools.sample_data.generator import DIRTY_KINDS, DirtyRow, Summary, generate

__all__ = ["DIRTY_KINDS", "DirtyRow", "Summary", "generate"]
