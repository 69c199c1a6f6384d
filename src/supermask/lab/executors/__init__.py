"""Ways to get runs done; all of them fill the same run folders."""
