// From an 8-bit RGB image to the pixels that a bundle's model takes, bit for bit as Pillow resizes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgekit {

// An upright image: rows of 8-bit R, G, B.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> rgb;  // width x height x 3
};

// `preprocessing` of bundle.json. The strings have the values that docs/bundle.md lists.
struct Preprocessing {
  int height = 0, width = 0;  // image_size: the side of a square, or [height, width]
  int resize_to = 0;
  std::string fit = "crop";
  std::string interpolation = "bilinear";
  std::string geometry = "edgekit";
  int fill[3] = {0, 0, 0};
};

// Returns height x width x 3 bytes. Throws std::invalid_argument for an unknown value of a string, or an empty image.
std::vector<std::uint8_t> to_pixels(const Image& image, const Preprocessing& preprocessing);

// Resizes the part `box` (left, top, right, bottom, in pixels of `image`) to width x height, as Pillow's Image.resize(size, resample, box) does up to
// Pillow 12: horizontally, then vertically, except for images that are over a hundred times as tall as wide.
Image resize(const Image& image, int width, int height, const std::string& interpolation, const float box[4]);

}  // namespace edgekit
