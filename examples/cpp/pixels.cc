// Pillow's resampling of 8-bit images (src/libImaging/Resample.c) and edgekit's geometry (edgekit/preprocess.py).
//
// Compile with -ffp-contract=off: a fused multiply-add rounds the weights differently.

#include "pixels.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace edgekit {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kPrecisionBits = 32 - 8 - 2;  // of a weight: 8 bits are the pixel, 2 are for sums below 0 and above 1
constexpr double kLongest = 50e6;           // pixels: of a larger resized image, only the center is computed

double bilinear(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x = x * kPi;
  return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Filter {
  double (*weight)(double);
  double support;
};

Filter filter_of(const std::string& interpolation) {
  if (interpolation == "bilinear") return {bilinear, 1.0};
  if (interpolation == "bicubic") return {bicubic, 2.0};
  if (interpolation == "lanczos") return {lanczos, 3.0};
  throw std::invalid_argument("unknown interpolation " + interpolation);
}

// The pixels that one output pixel is made of, and their weights in fixed point.
struct Window {
  int first = 0;
  std::vector<std::int32_t> weights;
};

std::vector<Window> windows(int in_size, float in0, float in1, int out_size, const Filter& filter) {
  const double scale = static_cast<double>(in1 - in0) / out_size;
  const double filter_scale = std::max(scale, 1.0);  // antialiasing: a smaller image averages over more pixels
  const double support = filter.support * filter_scale;
  const double step = 1.0 / filter_scale;
  std::vector<Window> found(out_size);
  std::vector<double> weights;
  for (int i = 0; i < out_size; ++i) {
    const double center = in0 + (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int last = std::min(static_cast<int>(center + support + 0.5), in_size);
    weights.assign(std::max(last - first, 0), 0.0);
    double sum = 0.0;
    for (int x = 0; x < last - first; ++x) {
      weights[x] = filter.weight((x + first - center + 0.5) * step);
      sum += weights[x];
    }
    found[i].first = first;
    for (double weight : weights) {
      if (sum != 0.0) weight /= sum;
      const double fixed = weight * (1 << kPrecisionBits);
      found[i].weights.push_back(static_cast<std::int32_t>(weight < 0 ? fixed - 0.5 : fixed + 0.5));
    }
  }
  return found;
}

std::uint8_t clip8(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255)); }

// One pass: `stride` bytes lie between two neighbors along the resized side; `lines` of them lie `pitch` bytes apart.
void resample(const std::uint8_t* in, std::uint8_t* out, const std::vector<Window>& windows, int stride, int lines, int in_pitch,
              int out_pitch) {
  for (int line = 0; line < lines; ++line) {
    for (std::size_t i = 0; i < windows.size(); ++i) {
      for (int channel = 0; channel < 3; ++channel) {
        const std::uint8_t* from = in + static_cast<std::size_t>(line) * in_pitch + static_cast<std::size_t>(windows[i].first) * stride + channel;
        std::int32_t sum = 1 << (kPrecisionBits - 1);
        for (std::int32_t weight : windows[i].weights) {
          sum += *from * weight;
          from += stride;
        }
        out[static_cast<std::size_t>(line) * out_pitch + i * stride + channel] = clip8(sum);
      }
    }
  }
}

Image horizontally(const Image& image, int width, const Filter& filter, float left, float right) {
  Image out{width, image.height, std::vector<std::uint8_t>(static_cast<std::size_t>(width) * image.height * 3)};
  resample(image.rgb.data(), out.rgb.data(), windows(image.width, left, right, width, filter), 3, image.height, image.width * 3, width * 3);
  return out;
}

Image vertically(const Image& image, int height, const Filter& filter, float top, float bottom) {
  Image out{image.width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(image.width) * height * 3)};
  const auto rows = windows(image.height, top, bottom, height, filter);
  resample(image.rgb.data(), out.rgb.data(), rows, image.width * 3, image.width, 3, 3);
  return out;
}

// Resizes only `width` x `height` pixels from (left, top) of what the image resized to resized_width x resized_height would be.
Image resized_part(const Image& image, int resized_width, int resized_height, int left, int top, int width, int height,
                   const Preprocessing& how) {
  const double x = static_cast<double>(image.width) / resized_width, y = static_cast<double>(image.height) / resized_height;
  const float box[4] = {static_cast<float>(left * x), static_cast<float>(top * y), static_cast<float>((left + width) * x),
                        static_cast<float>((top + height) * y)};
  return resize(image, width, height, how.interpolation, box);
}

Image resized(const Image& image, int width, int height, const Preprocessing& how) {
  const float box[4] = {0, 0, static_cast<float>(image.width), static_cast<float>(image.height)};
  return resize(image, width, height, how.interpolation, box);
}

int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }  // half to even, as Python's round

// A side of the area of resize_to: the shape of height x width, not rounded.
double area(const Preprocessing& how, int side) {
  return static_cast<double>(static_cast<std::int64_t>(side) * how.resize_to) / std::min(how.height, how.width);
}

// Width and height of the whole resized image, rounded as torchvision and timm do.
void torchvision_size(const Image& image, const Preprocessing& how, int* width, int* height) {
  const int shorter = std::min(image.width, image.height), longer = std::max(image.width, image.height);
  const int across = static_cast<int>(area(how, how.width)), down = static_cast<int>(area(how, how.height));
  const double to = how.resize_to;
  if (how.fit == "stretch") {
    *width = across, *height = down;
  } else if (how.fit == "border" || how.height != how.width) {
    const double of_height = static_cast<double>(image.height) / down, of_width = static_cast<double>(image.width) / across;
    const double ratio = how.fit == "border" ? std::max(of_height, of_width) : std::min(of_height, of_width);
    *width = std::max(1, rounded(image.width / ratio));
    *height = std::max(1, rounded(image.height / ratio));
  } else {
    const int other = static_cast<int>(to * longer / shorter);
    *width = image.width <= image.height ? how.resize_to : other;
    *height = image.width <= image.height ? other : how.resize_to;
  }
}

// How far the result begins after the resized side does; below 0, the rest is filled.
int margin(int size, int side) {
  const int missing = size - side;
  return missing > 0 ? -(missing / 2) : rounded(-missing / 2.0);
}

std::vector<std::uint8_t> torchvision_pixels(const Image& image, const Preprocessing& how) {
  int width = 0, height = 0;
  torchvision_size(image, how, &width, &height);
  int left = margin(how.width, width), top = margin(how.height, height);
  Image whole;
  if (static_cast<double>(width) * height > kLongest) {
    whole = resized_part(image, width, height, std::max(0, left), std::max(0, top), std::min(how.width, width), std::min(how.height, height), how);
    left = std::min(0, left);
    top = std::min(0, top);
  } else {
    whole = resized(image, width, height, how);
  }
  std::vector<std::uint8_t> result(static_cast<std::size_t>(how.height) * how.width * 3);
  for (int y = 0; y < how.height; ++y) {
    for (int x = 0; x < how.width; ++x) {
      const int from_x = x + left, from_y = y + top;
      const bool inside = from_x >= 0 && from_y >= 0 && from_x < whole.width && from_y < whole.height;
      for (int channel = 0; channel < 3; ++channel) {
        const std::size_t from = (static_cast<std::size_t>(from_y) * whole.width + from_x) * 3 + channel;
        result[(static_cast<std::size_t>(y) * how.width + x) * 3 + channel] =
            inside ? whole.rgb[from] : static_cast<std::uint8_t>(how.fill[channel]);
      }
    }
  }
  return result;
}

}  // namespace

Image resize(const Image& image, int width, int height, const std::string& interpolation, const float box[4]) {
  const Filter filter = filter_of(interpolation);
  const bool across = width != image.width || box[0] != 0 || box[2] != static_cast<float>(width);
  const bool down = height != image.height || box[1] != 0 || box[3] != static_cast<float>(height);
  // The order matters, as what lies between the two passes has 8 bits.
  const bool down_first = image.height > 100 * image.width && image.height > height;
  Image out = image;
  if (down && down_first) out = vertically(out, height, filter, box[1], box[3]);
  if (across) out = horizontally(out, width, filter, box[0], box[2]);
  if (down && !down_first) out = vertically(out, height, filter, box[1], box[3]);
  return out;
}

std::vector<std::uint8_t> to_pixels(const Image& image, const Preprocessing& how) {
  if (image.width < 1 || image.height < 1) throw std::invalid_argument("an empty image");
  if (how.geometry == "torchvision") return torchvision_pixels(image, how);
  if (how.geometry != "edgekit") throw std::invalid_argument("unknown geometry " + how.geometry);
  if (how.fit == "stretch") return resized(image, how.width, how.height, how).rgb;
  if (how.fit != "crop") throw std::invalid_argument("unknown fit " + how.fit);
  const double scale = std::max(area(how, how.width) / image.width, area(how, how.height) / image.height);
  const int width = std::max(how.width, rounded(image.width * scale)), height = std::max(how.height, rounded(image.height * scale));
  return resized_part(image, width, height, (width - how.width) / 2, (height - how.height) / 2, how.width, how.height, how).rgb;
}

}  // namespace edgekit
