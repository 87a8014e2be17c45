"""Write trained models in the formats of other programs, and compare what they compute."""
