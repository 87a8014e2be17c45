"""One colour for each method in all pictures."""

__all__ = ["METHOD_COLORS"]

# Related methods have related colours: SogCLR and its variants are blue. CLIP is SimCLR on pairs.
METHOD_COLORS = {
    "sogclr": "#1f77b4",
    "sogclr-recent": "#08306b",
    "isogclr": "#63b3e4",
    "simclr": "#c0504d",
    "clip": "#c0504d",
    "dcl": "#e0a030",
    "moco": "#2e8b57",
    "siglip": "#8e63a8",
    "fastclip-v3": "#7f7f7f",
}
