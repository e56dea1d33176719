#include "pixels_c.h"

#include <cstring>
#include <exception>

#include "bundle.h"

int edgekit_pixels(const char* bundle_json, const uint8_t* rgb, int width, int height, uint8_t* out, size_t out_bytes) {
  using namespace edgekit;
  if (bundle_json == nullptr || rgb == nullptr || width < 1 || height < 1) return 0;
  try {
    const Preprocessing how = preprocessing_of(parse_json(bundle_json, "bundle.json").at("preprocessing", Json::Kind::object));
    const std::vector<std::uint8_t> pixels = to_pixels({width, height, {rgb, rgb + std::size_t{3} * width * height}}, how);
    if (pixels.size() > out_bytes) return 0;
    std::memcpy(out, pixels.data(), pixels.size());
    return static_cast<int>(pixels.size());
  } catch (const std::exception&) {  // no exception may leave a function of C
    return 0;
  }
}
