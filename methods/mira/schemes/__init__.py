"""Black-box watermark schemes, one file a scheme; `scheme.Scheme` is their interface."""
