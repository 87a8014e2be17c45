"""Keep a run on disk: its files, its trained models, and the data that it was trained on."""
