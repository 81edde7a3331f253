"""PyTorch models: the catalog, loading weights, inference, uncertainty, training. No DICOM, no heatmaps."""
