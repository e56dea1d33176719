// What an application reads of a bundle.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "files.h"
#include "json.h"
#include "pixels.h"

namespace edgekit {

// One of the bundle's forms of the model.
struct Variant {
  std::string id;         // for instance litert-int8
  std::string runtime;    // for instance litert, onnxruntime
  std::string precision;  // fp32, fp16, int8
  std::string status;     // verified, rejected, unexecuted
  std::string file;       // the one that the runtime opens
  double agreement = -1;  // with the trained model on the golden images, where it was exported; below 0: unknown
};

// `preprocessing` of bundle.json. Throws Failure(1).
Preprocessing preprocessing_of(const Json& json);

class Bundle {
 public:
  // Reads bundle.json of a folder. Throws Failure: 2 where there is none, 1 where it is of another task or schema.
  explicit Bundle(const std::string& folder);

  const std::vector<std::string>& classes() const { return classes_; }
  const std::vector<std::string>& outputs() const { return outputs_; }  // names; "logits" is always there
  const Preprocessing& preprocessing() const { return preprocessing_; }
  const std::vector<Variant>& variants() const { return variants_; }
  // Throws Failure(2) where there is no such variant.
  const Variant& variant(const std::string& id) const;

  // A file's bytes. Throws Failure(1) where they are not those that were exported.
  Bytes read(const std::string& path) const;

  // `images`, uint8 (n, s, s, 3), and the trained model's outputs for them, float32 with n rows, by their names.
  std::map<std::string, Array> golden() const;

 private:
  struct Listed {
    double bytes;
    std::string sha256;
  };
  void list(const Json& file);

  std::string folder_, golden_;
  std::map<std::string, Listed> files_;
  std::vector<std::string> classes_, outputs_;
  Preprocessing preprocessing_;
  std::vector<Variant> variants_;
};

}  // namespace edgekit
