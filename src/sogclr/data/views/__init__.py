"""Random views of images: draws, crops, and changes of colour."""
