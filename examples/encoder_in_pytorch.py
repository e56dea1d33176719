"""Use the pretrained encoder in your own PyTorch program: a new head on frozen features.

python examples/encoder_in_pytorch.py runs/digits
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import edgekit

encoder = edgekit.Run(
    sys.argv[1]
).encoder()  # a torch.nn.Module: normalized float32 images (n, 3, s, s) -> features (n, d)
print(encoder.image_size, "pixels,", encoder.feature_dim, "features")

# A new task: is the digit even? `transform` resizes and normalizes as in the evaluation of the run.
digits = load_digits()
pixels = (digits.images[:400] * 255 / 16).round().astype("uint8")[..., None].repeat(3, axis=3)  # (n, 8, 8, 3)
images = torch.stack([encoder.transform(image) for image in pixels])
even = torch.tensor(digits.target[:400] % 2 == 0)

with torch.no_grad():
    features = encoder(images)
features = (features - features.mean(0)) / (features.std(0) + 1e-6)
torch.manual_seed(0)
head = nn.Linear(encoder.feature_dim, 2)
optimizer = torch.optim.AdamW(head.parameters(), lr=0.05)
for _ in range(100):
    loss = nn.functional.cross_entropy(head(features[:300]), even[:300].long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

accuracy = (head(features[300:]).argmax(1) == even[300:].long()).float().mean()
print(f"even or odd: {100 * accuracy:.0f} % of 100 images that the head was not trained on")
