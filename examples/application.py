"""An application on the device: needs the wheel of edgekit and one runtime, but no PyTorch.

python examples/application.py runs/digits/export photo.jpg …
"""

import sys

import numpy as np

import edgekit

bundle, *paths = sys.argv[1:]

with edgekit.load(bundle) as model:  # the digests of all files are checked before anything is loaded
    print(model)

    # Files: one, or a list.
    for path, prediction in zip(paths, model.predict(paths, top=1), strict=True):
        name, probability = prediction.classes[0]
        print(f"{path}: {name} ({100 * probability:.0f} %)")

    # A camera's frames are arrays: uint8 RGB (height, width, 3). OpenCV's are BGR: frame[..., ::-1].
    frame = np.zeros((480, 640, 3), np.uint8)
    print("a black frame:", model.predict(frame, top=2).classes)

    # An unreadable image raises an error with a one-line message.
    try:
        model.predict(b"not an image")
    except edgekit.EdgekitError as error:
        print(f"skipped: {error}")
