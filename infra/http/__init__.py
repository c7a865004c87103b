"""HTTP servers that slow, large and broken requests cannot hurt."""
