// Proves a variant of a bundle in C++, and classifies images with it:
//
//   prove BUNDLE VARIANT [IMAGE.ppm …]
//
// Exit code 0: the variant gives what the trained model gives for the golden images. 1: it does not, or a file of the bundle was changed.
// 2: a wrong call. docs/phones.md says how it is compiled.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>

#include "bundle.h"
#include "model.h"

namespace {

using namespace edgekit;

// edgekit/parity.py
constexpr double kFp32 = 1e-3, kFp16 = 3e-2;  // largest difference of a float variant, as a share of the largest value
constexpr double kAgreementLoss = 0.05;       // of INT8, compared with the machine where it was exported
constexpr double kOtherVector = 0.5;          // the cosine below which an embedding of INT8 is another vector

// An output beside the trained model's, over all golden images.
struct Likeness {
  double difference = 0, largest = 0, cosine = 1;
  bool finite = true;

  void add(const std::vector<float>& got, const float* trained) {
    double product = 0, own = 0, other = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double a = got[i], b = trained[i];
      finite = finite && std::isfinite(a);
      difference = std::max(difference, std::fabs(a - b));
      largest = std::max(largest, std::fabs(b));
      product += a * b, own += a * a, other += b * b;
    }
    if (own > 0 || other > 0) cosine = std::min(cosine, own > 0 && other > 0 ? product / std::sqrt(own) / std::sqrt(other) : 0.0);
  }
};

std::size_t decision(const float* logits, std::size_t count) { return std::max_element(logits, logits + count) - logits; }

std::unique_ptr<Model> opened(const Bundle& bundle, const Variant& variant) {
  const Preprocessing& how = bundle.preprocessing();
#ifdef WITH_LITERT
  if (variant.runtime == "litert") return open_litert(bundle.read(variant.file), how.height, how.width, bundle.outputs());
#endif
#ifdef WITH_ONNXRUNTIME
  if (variant.runtime == "onnxruntime") return open_onnxruntime(bundle.read(variant.file), how.height, how.width, bundle.outputs());
#endif
  throw Failure(2, variant.id + ": this program was compiled without the runtime " + variant.runtime);
}

// Why an output is not the trained model's; empty where it may be.
std::string fault(const std::string& name, const Likeness& near, const Variant& variant) {
  if (!near.finite) return name + ": not finite numbers";
  const bool logits = name == "logits";
  if (variant.precision == "int8") return logits || near.cosine >= kOtherVector ? "" : name + ": another vector";
  const double share = variant.precision == "fp16" ? kFp16 : kFp32;
  return near.difference <= share * (logits ? std::max(1.0, near.largest) : near.largest) ? "" : name + ": too different for " + variant.precision;
}

bool prove(const Bundle& bundle, const Variant& variant, Model& model) {
  const auto golden = bundle.golden();
  const Array& images = golden.at("images");
  const std::size_t count = images.shape[0], pixels = images.count() / count;
  std::map<std::string, Likeness> found;
  std::size_t agreeing = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto begin = images.data.begin() + i * pixels;
    const Outputs outputs = model.run(std::vector<std::uint8_t>(begin, begin + pixels));
    for (const std::string& name : bundle.outputs()) {
      const std::vector<float>& got = outputs.at(name);
      const Array& trained = golden.at(name);
      if (got.size() != trained.count() / count) throw Failure(1, name + ": has another shape than the golden tensors");
      found[name].add(got, trained.floats() + i * got.size());
      if (name == "logits" && decision(got.data(), got.size()) == decision(trained.floats() + i * got.size(), got.size())) ++agreeing;
    }
  }
  std::printf("%s (%s)\n", variant.id.c_str(), variant.status.c_str());
  std::printf("  decisions: %zu of %zu as the trained model's\n", agreeing, count);
  std::vector<std::string> faults;
  for (const auto& [name, near] : found) {
    std::printf("  %s: largest difference %.3g of up to %.3g, smallest cosine %.6f\n", name.c_str(), near.difference, near.largest, near.cosine);
    if (const std::string why = fault(name, near, variant); !why.empty()) faults.push_back(why);
  }
  const double least = variant.precision != "int8" ? 1 : variant.agreement >= 0 ? variant.agreement - kAgreementLoss : 0;
  if (agreeing < least * count) faults.push_back("decisions: fewer agree than where it was exported");
  for (const std::string& why : faults) std::printf("  FAILED: %s\n", why.c_str());
  if (faults.empty()) std::printf("  passed\n");
  return faults.empty();
}

void classify(const Bundle& bundle, Model& model, const std::string& path) {
  const std::vector<float> logits = model.run(to_pixels(read_ppm(path), bundle.preprocessing())).at("logits");
  const std::size_t best = decision(logits.data(), logits.size());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - logits[best]);  // softmax: the largest is e^0 of the sum
  std::printf("%s: %s %.6f\n", path.c_str(), bundle.classes().at(best).c_str(), 1 / sum);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 3) throw Failure(2, "usage: prove BUNDLE VARIANT [IMAGE.ppm …]");
    const Bundle bundle(argv[1]);
    const Variant& variant = bundle.variant(argv[2]);
    const std::unique_ptr<Model> model = opened(bundle, variant);
    const bool passed = prove(bundle, variant, *model);
    for (int i = 3; i < argc; ++i) classify(bundle, *model, argv[i]);
    return passed ? 0 : 1;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "prove: %s\n", failure.what());
    return failure.code;
  } catch (const std::exception& error) {  // a number of bundle.json that is out of its range, or too little memory
    std::fprintf(stderr, "prove: %s\n", error.what());
    return 1;
  }
}
