"""Publishing on the Hugging Face hub: contents, cards and upload."""
