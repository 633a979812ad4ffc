"""One file per claim; each prints what it measures."""
