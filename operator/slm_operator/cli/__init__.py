"""slmctl, which is also `kubectl slm`: look at services and their measured points; run the demo."""
