"""Pages with PAGE XML or ALTO: which files of a folder are some, and where their images lie."""
