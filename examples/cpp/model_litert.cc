// LiteRT through its C interface for compiled models, on the CPU.

#if __has_include("litert/c/litert_compiled_model.h")
#include "litert/c/litert_common.h"
#include "litert/c/litert_compiled_model.h"
#include "litert/c/litert_environment.h"
#include "litert/c/litert_model.h"
#include "litert/c/litert_options.h"
#include "litert/c/litert_tensor_buffer.h"
#else
#include "abi/litert_c_api.h"
#endif

#include <cstring>

#include "model.h"

namespace edgekit {
namespace {

void check(LiteRtStatus status, const char* what) {
  if (status != kLiteRtStatusOk) throw Failure(1, std::string("LiteRT: ") + what + ": status " + std::to_string(static_cast<int>(status)));
}

std::int64_t count_of(const LiteRtLayout& layout) {
  std::int64_t count = 1;
  for (unsigned i = 0; i < layout.rank; ++i) count *= layout.dimensions[i];
  return count;
}

class LiteRtModelOfOurs : public Model {
 public:
  LiteRtModelOfOurs(Bytes content, int height, int width, const std::vector<std::string>& outputs)
      : content_(std::move(content)), height_(height), width_(width) {
    try {
      load(outputs);
    } catch (...) {
      release();
      throw;
    }
  }
  ~LiteRtModelOfOurs() override { release(); }

  Outputs run(const std::vector<std::uint8_t>& pixels) override {
    void* memory = nullptr;
    check(LiteRtLockTensorBuffer(input_, &memory, kLiteRtTensorBufferLockModeWrite), "writing the image");
    std::memcpy(memory, pixels.data(), pixels.size());
    check(LiteRtUnlockTensorBuffer(input_), "writing the image");
    check(LiteRtRunCompiledModel(compiled_, 0, 1, &input_, buffers_.size(), buffers_.data()), "running");
    Outputs found;
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      check(LiteRtLockTensorBuffer(buffers_[i], &memory, kLiteRtTensorBufferLockModeRead), "reading an output");
      const float* numbers = static_cast<const float*>(memory);
      found[names_[i]].assign(numbers, numbers + counts_[i]);
      check(LiteRtUnlockTensorBuffer(buffers_[i]), "reading an output");
    }
    return found;
  }

 private:
  void load(const std::vector<std::string>& outputs) {
    check(LiteRtCreateEnvironment(0, nullptr, &environment_), "starting");
    check(LiteRtCreateModelFromBuffer(environment_, content_.data(), content_.size(), &model_), "loading the model");
    LiteRtOptions options = nullptr;
    check(LiteRtCreateOptions(&options), "options");
    LiteRtStatus status = LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu);
    if (status == kLiteRtStatusOk) status = LiteRtCreateCompiledModel(environment_, model_, options, &compiled_);
    LiteRtDestroyOptions(options);
    check(status, "compiling the model");
    bind_input();
    bind_outputs();
    for (const std::string& name : outputs) {
      bool there = false;
      for (const std::string& known : names_) there = there || known == name;
      if (!there) throw Failure(1, "LiteRT: the model has no output " + name);
    }
  }

  void bind_input() {
    LiteRtLayout layout{};
    check(LiteRtGetCompiledModelInputTensorLayout(compiled_, 0, 0, &layout), "the input");
    const int sides[4] = {1, height_, width_, 3};
    if (layout.rank != 4) throw Failure(1, "LiteRT: the input is not an image");
    for (int i = 1; i < 4; ++i) {
      if (layout.dimensions[i] != sides[i]) throw Failure(1, "LiteRT: the input is of another size");
    }
    if (layout.dimensions[0] < 0) check(LiteRtCompiledModelResizeInputTensor(compiled_, 0, 0, sides, 4), "setting the batch size");
    if (layout.dimensions[0] > 1) throw Failure(1, "LiteRT: the model takes several images at a time");
    LiteRtRankedTensorType type{};
    type.element_type = kLiteRtElementTypeUInt8;
    type.layout.rank = 4;
    for (int i = 0; i < 4; ++i) type.layout.dimensions[i] = sides[i];
    LiteRtTensorBufferRequirements needs = nullptr;
    check(LiteRtGetCompiledModelInputBufferRequirements(compiled_, 0, 0, &needs), "the input");
    check(LiteRtCreateManagedTensorBufferFromRequirements(environment_, &type, needs, &input_), "memory for the input");
  }

  void bind_outputs() {
    LiteRtSignature signature = nullptr;
    LiteRtParamIndex count = 0;
    check(LiteRtGetModelSignature(model_, 0, &signature), "the outputs");
    check(LiteRtGetNumSignatureOutputs(signature, &count), "the outputs");
    std::vector<LiteRtLayout> layouts(count);
    check(LiteRtGetCompiledModelOutputTensorLayouts(compiled_, 0, count, layouts.data(), true), "the outputs");
    for (LiteRtParamIndex i = 0; i < count; ++i) {
      const char* name = nullptr;
      check(LiteRtGetSignatureOutputName(signature, i, &name), "the outputs");
      LiteRtRankedTensorType type{};
      type.element_type = kLiteRtElementTypeFloat32;
      type.layout = layouts[i];
      if (count_of(layouts[i]) < 1) throw Failure(1, "LiteRT: an output without a size");
      LiteRtTensorBufferRequirements needs = nullptr;
      LiteRtTensorBuffer buffer = nullptr;
      check(LiteRtGetCompiledModelOutputBufferRequirements(compiled_, 0, i, &needs), "the outputs");
      check(LiteRtCreateManagedTensorBufferFromRequirements(environment_, &type, needs, &buffer), "memory for an output");
      names_.push_back(name);
      counts_.push_back(count_of(layouts[i]));
      buffers_.push_back(buffer);
    }
  }

  void release() {
    for (LiteRtTensorBuffer buffer : buffers_) LiteRtDestroyTensorBuffer(buffer);
    if (input_ != nullptr) LiteRtDestroyTensorBuffer(input_);
    if (compiled_ != nullptr) LiteRtDestroyCompiledModel(compiled_);
    if (model_ != nullptr) LiteRtDestroyModel(model_);
    if (environment_ != nullptr) LiteRtDestroyEnvironment(environment_);
  }

  Bytes content_;  // LiteRT reads from it as long as the model lives
  int height_, width_;
  LiteRtEnvironment environment_ = nullptr;
  LiteRtModel model_ = nullptr;
  LiteRtCompiledModel compiled_ = nullptr;
  LiteRtTensorBuffer input_ = nullptr;
  std::vector<std::string> names_;
  std::vector<std::int64_t> counts_;
  std::vector<LiteRtTensorBuffer> buffers_;
};

}  // namespace

std::unique_ptr<Model> open_litert(Bytes content, int height, int width, const std::vector<std::string>& outputs) {
  return std::make_unique<LiteRtModelOfOurs>(std::move(content), height, width, outputs);
}

}  // namespace edgekit
