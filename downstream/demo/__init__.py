"""The demo: pre-train an encoder, fine-tune two segmenters, compare them."""
