"""What the client and the graphs that a server runs go by alike. Nothing is imported here."""

LINE_FINDER = "htr-lines"
"""Name of the line finder on a server."""
MAX_PIXELS = 50_000_000
"""Pixels of the largest image that is decoded: a small file can declare a huge one."""
LEAST_CONTRAST = 40
"""Grey levels between paper and ink below which the graph spreads no image to full contrast."""
COLUMNS_PER_FRAME = 4
"""Columns of the image tensor that one frame covers: the network halves the width twice."""
