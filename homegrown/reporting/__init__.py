"""HTML pages, charts, tables and numbers, as every report shows them."""
