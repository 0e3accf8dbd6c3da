"""What each method does with target images. A new one is a file here and a row in two tables.

`METHODS` in `adaptation.config` names it and says what it is composed of; `build_methods` in
`adaptation.build` makes its part of the training step, a `TargetMethod` (`method.py`). What works
outside of the step is a function: `fda` on the source images before it, `adapt_bn` after the last.
"""
