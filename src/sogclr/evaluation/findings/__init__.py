"""Find in arrays what deserves a look: neighbours, duplicates, doubtful labels, crowded samples."""
