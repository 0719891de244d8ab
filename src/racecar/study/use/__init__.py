"""What one does with a trained classifier: evaluate, predict, embed, regenerate, export."""
