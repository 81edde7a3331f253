"""The methods by name. Light to import, so that settings can check a name; what each computes is in `cam` and `scorecam`."""

BY_GRADIENT = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam")
SCORECAM, SCORECAM_EXACT = "scorecam", "scorecam-exact"  # these ask the network instead of its gradients
ALL_METHODS = (*BY_GRADIENT, SCORECAM, SCORECAM_EXACT)
