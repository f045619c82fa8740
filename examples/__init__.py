"""Small programs that use the parts by hand."""
