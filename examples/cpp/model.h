// A loaded variant, in whichever runtime serves it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "files.h"

namespace edgekit {

using Outputs = std::map<std::string, std::vector<float>>;  // by name

class Model {
 public:
  virtual ~Model() = default;
  // Runs one image: height x width x 3 bytes, as to_pixels gives them. Throws Failure(1).
  virtual Outputs run(const std::vector<std::uint8_t>& pixels) = 0;
};

// Load a file's bytes for images of height x width pixels. Throw Failure(1) where the runtime does not load it, or it lacks an output.
std::unique_ptr<Model> open_litert(Bytes content, int height, int width, const std::vector<std::string>& outputs);
std::unique_ptr<Model> open_onnxruntime(Bytes content, int height, int width, const std::vector<std::string>& outputs);

}  // namespace edgekit
