"""The learning side: tokenizer, encoder, masking, training, decoding and evaluation."""
