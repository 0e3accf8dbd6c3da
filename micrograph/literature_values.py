"""Published numbers with their sources: `published/*.csv`. No torch.

paper_a   NASA/TM-20210026119: segmentation, Tables 2 to 4 and the best models
paper_b   "Addressing materials' microstructure diversity using transfer learning": Tables 1 to 7
          and its text. `note` lists what our copy of the text lacks (headings of Tables 1 and 7,
          symbols of etchings); nothing was filled in.
imagenet  top-1 on ImageNet of the weights that `--init imagenet` loads
micronet  paper A, figure 2(a), as numbers in the README of its repository: accuracy of each encoder
"""

from functools import cache
from importlib.resources import files

import pandas as pd


@cache
def read_published(name: str) -> pd.DataFrame:
    """The rows of `published/NAME.csv` in print order; percentages become shares in [0, 1].

    Absent numbers are nan, absent words are empty.
    """
    with (files("micrograph") / "literature" / f"{name}.csv").open(encoding="utf-8") as stream:
        frame = pd.read_csv(stream, dtype=str, keep_default_na=False)
    scale = frame["unit"].map({"percent": 100}).fillna(1)
    for column in ("value", "std", "top1", "top5", "epochs"):
        if column in frame:
            frame[column] = pd.to_numeric(frame[column]) / (1 if column == "epochs" else scale)
    return frame
