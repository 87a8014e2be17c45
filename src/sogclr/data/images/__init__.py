"""Images from files, folders, arrays and Hugging Face data sets."""
