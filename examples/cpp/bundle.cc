#include "bundle.h"

#include <cmath>

namespace edgekit {
namespace {

constexpr int kSchema = 2;  // the newest that this sample reads
using Kind = Json::Kind;

Variant variant_of(const Json& json) {
  Variant found;
  found.id = json.at("id", Kind::string).string;
  found.runtime = json.at("runtime", Kind::string).string;
  found.precision = json.at("precision", Kind::string).string;
  found.status = json.at("status", Kind::string).string;
  found.file = json.at("files", Kind::array).array.at(0).at("path", Kind::string).string;
  if (json.has("parity")) {
    const Json& parity = json.at("parity", Kind::object);
    if (parity.has("agreement")) found.agreement = parity.at("agreement", Kind::number).number;
  }
  return found;
}

}  // namespace

Preprocessing preprocessing_of(const Json& json) {
  Preprocessing found;
  const bool square = json.has("image_size") && json.object.at("image_size").kind == Kind::number;  // else [height, width]
  const std::vector<Json> sides = square ? std::vector<Json>(2, json.at("image_size", Kind::number)) : json.at("image_size", Kind::array).array;
  bool usable = sides.size() == 2;
  for (const Json& side : sides) usable = usable && side.kind == Kind::number && side.number >= 1 && side.number <= 4096;
  if (!usable) throw Failure(1, "bundle.json: no usable \"image_size\"");
  found.height = static_cast<int>(sides[0].number), found.width = static_cast<int>(sides[1].number);
  found.resize_to = static_cast<int>(json.at("resize_to", Kind::number).number);
  found.fit = json.at("fit", Kind::string).string;
  found.interpolation = json.at("interpolation", Kind::string).string;
  if (json.has("geometry")) found.geometry = json.at("geometry", Kind::string).string;
  if (json.has("fill")) {
    for (int i = 0; i < 3; ++i) found.fill[i] = static_cast<int>(json.at("fill", Kind::array).array.at(i).number);
  }
  return found;
}

Bundle::Bundle(const std::string& folder) : folder_(folder) {
  const std::string path = folder + "/bundle.json";
  const Bytes content = read_file(path);
  const Json manifest = parse_json(std::string(content.begin(), content.end()), path);
  const double schema = manifest.at("schema", Kind::number).number;
  if (schema > kSchema) throw Failure(1, path + ": is of a newer schema than this program reads");
  if (manifest.has("task") && manifest.at("task", Kind::string).string != "classification") {
    throw Failure(1, path + ": is not a classification");
  }
  for (const Json& name : manifest.at("classes", Kind::array).array) classes_.push_back(name.string);
  for (const Json& output : manifest.at("outputs", Kind::array).array) outputs_.push_back(output.at("name", Kind::string).string);
  preprocessing_ = preprocessing_of(manifest.at("preprocessing", Kind::object));
  golden_ = manifest.at("golden", Kind::object).at("path", Kind::string).string;
  list(manifest.at("golden", Kind::object));
  for (const Json& variant : manifest.at("variants", Kind::array).array) {
    for (const Json& file : variant.at("files", Kind::array).array) list(file);
    variants_.push_back(variant_of(variant));
  }
}

void Bundle::list(const Json& file) {
  const std::string path = file.at("path", Kind::string).string;
  if (path.empty() || path[0] == '/' || path.find("..") != std::string::npos || path.find('\\') != std::string::npos) {
    throw Failure(1, "bundle.json: a path outside the bundle, " + path);
  }
  files_[path] = {file.at("bytes", Kind::number).number, file.at("sha256", Kind::string).string};
}

const Variant& Bundle::variant(const std::string& id) const {
  std::string known;
  for (const Variant& variant : variants_) {
    if (variant.id == id) return variant;
    known += (known.empty() ? "" : ", ") + variant.id;
  }
  throw Failure(2, "the bundle has no variant " + id + ", only " + known);
}

Bytes Bundle::read(const std::string& path) const {
  const auto listed = files_.find(path);
  if (listed == files_.end()) throw Failure(1, path + ": is not listed in bundle.json");
  Bytes content = read_file(folder_ + "/" + path);
  if (content.size() != listed->second.bytes || sha256(content) != listed->second.sha256) {
    throw Failure(1, path + ": changed since the export");
  }
  return content;
}

std::map<std::string, Array> Bundle::golden() const {
  auto arrays = read_npz(read(golden_), golden_);
  const std::int64_t bytes = std::int64_t{3} * preprocessing_.height * preprocessing_.width;
  const Array& images = arrays["images"];
  if (images.type != "|u1" || images.shape.size() != 4 || images.shape[0] < 1 || images.count() != images.shape[0] * bytes) {
    throw Failure(1, golden_ + ": no images of this size");
  }
  for (const std::string& name : outputs_) {
    const Array& output = arrays[name];
    if (output.type != "<f4" || output.shape.empty() || output.shape[0] != images.shape[0]) throw Failure(1, golden_ + ": no " + name);
    for (std::int64_t i = 0; i < output.count(); ++i) {
      if (!std::isfinite(output.floats()[i])) throw Failure(1, golden_ + ": holds numbers that are not finite");  // anything would pass
    }
  }
  return arrays;
}

}  // namespace edgekit
