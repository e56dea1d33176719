// Files: whole, with a digest, and the two formats that a bundle and this sample read.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "pixels.h"

namespace edgekit {

using Bytes = std::vector<std::uint8_t>;

// Something that cannot be used: `code` is 2 for a wrong call or a missing file, 1 for a file that is not what the bundle says.
struct Failure : std::runtime_error {
  Failure(int code, const std::string& message) : std::runtime_error(message), code(code) {}
  int code;
};

// An array of a NumPy archive.
struct Array {
  std::string type;  // NumPy's, for instance "|u1" or "<f4"
  std::vector<std::int64_t> shape;
  Bytes data;

  std::int64_t count() const;
  const float* floats() const { return reinterpret_cast<const float*>(data.data()); }
};

Bytes read_file(const std::string& path);
std::string sha256(const Bytes& content);  // 64 hexadecimal digits

// The arrays of a .npz by name: C order, stored or deflated.
std::map<std::string, Array> read_npz(const Bytes& content, const std::string& path);

// A binary PPM (P6) of 8 bits.
Image read_ppm(const std::string& path);

}  // namespace edgekit
