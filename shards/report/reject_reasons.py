"""What each reason for a rejected file means, and what to do about it."""

# reason: what it means, and what to do
REASONS = {
    "not_an_image": (
        "Not an image by its suffix or content.",
        "Nothing to do, unless micrographs are among them: save those as TIFF or PNG.",
    ),
    "empty": ("The file has no bytes.", "Fetch it again."),
    "corrupt": ("The file is damaged, or has values that are not finite.", "Fetch it again."),
    "fatal": (
        "Reading the file killed the process: it is damaged, or too large for the memory.",
        "Open it in another program, and save it again.",
    ),
    "too_large": ("More pixels or bytes than a micrograph has.", "Cut it into tiles."),
    "too_small": (
        "A side is shorter than the 32 pixels that an encoder needs.",
        "Nothing to do: thumbnails and icons are no micrographs.",
    ),
    "deep_colour": (
        "16 bits per colour, of which the low half would be lost silently.",
        "Save it as 16-bit grey or as 8 bits per colour.",
    ),
    "blank": ("Every pixel has the same value.", "Nothing to do; it shows nothing."),
    "mask": (
        "So few values that it looks like a label mask.",
        "If it is a micrograph: --masks keep.",
    ),
    "annotated": (
        "Many measurement marks are burnt in, as --annotations discard asked.",
        "If they do no harm: --annotations keep.",
    ),
    "duplicate": (
        "The same pixels as an image that was kept, in the same class.",
        "Nothing to do; one copy is enough.",
    ),
    "conflicting_labels": (
        "The same pixels are in more than one class, so no label is certain: all are left out.",
        "Decide where the image belongs, and remove the other copies.",
    ),
}
UNSEEN = ("not_an_image", "empty", "corrupt", "fatal")  # there is nothing to show
