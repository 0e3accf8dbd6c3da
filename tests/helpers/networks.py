"""Networks that cost little: for what holds of any encoder."""

SMALL_ARCH = "tu-test_resnet"  # timm's, for its own tests: half a million weights, five stages
