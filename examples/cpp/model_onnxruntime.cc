// ONNX Runtime through its C interface, which Android's and iOS's packages of it have too.

#if __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include "abi/onnxruntime_c_api.h"
#endif

#include "model.h"

namespace edgekit {
namespace {

const OrtApi& api() {
  static const OrtApi* const found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (found == nullptr) throw Failure(2, "this ONNX Runtime is older than the header that the program was compiled with");
  return *found;
}

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw Failure(1, "ONNX Runtime: " + message);
}

// Owns an object of the interface.
template <class T>
class Owned {
 public:
  explicit Owned(void (*release)(T*)) : release_(release) {}
  ~Owned() {
    if (pointer_ != nullptr) release_(pointer_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  T* get() const { return pointer_; }
  T** out() { return &pointer_; }

 private:
  void (*release_)(T*);
  T* pointer_ = nullptr;
};

class OnnxRuntimeModel : public Model {
 public:
  OnnxRuntimeModel(const Bytes& content, int height, int width, const std::vector<std::string>& outputs)
      : height_(height), width_(width), outputs_(outputs), env_(api().ReleaseEnv), options_(api().ReleaseSessionOptions), session_(api().ReleaseSession), memory_(api().ReleaseMemoryInfo) {
    check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgekit", env_.out()));
    check(api().DisableTelemetryEvents(env_.get()));
    check(api().CreateSessionOptions(options_.out()));
    check(api().SetIntraOpNumThreads(options_.get(), 1));
    check(api().CreateSessionFromArray(env_.get(), content.data(), content.size(), options_.get(), session_.out()));
    check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, memory_.out()));
  }

  Outputs run(const std::vector<std::uint8_t>& pixels) override {
    const std::int64_t shape[4] = {1, height_, width_, 3};
    Owned<OrtValue> image(api().ReleaseValue);
    check(api().CreateTensorWithDataAsOrtValue(memory_.get(), const_cast<std::uint8_t*>(pixels.data()), pixels.size(), shape, 4,
                                               ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, image.out()));
    Outputs found;
    const char* input = "image";
    const OrtValue* inputs[] = {image.get()};
    std::vector<const char*> names;
    for (const std::string& name : outputs_) names.push_back(name.c_str());
    std::vector<OrtValue*> values(names.size(), nullptr);
    OrtStatus* status = api().Run(session_.get(), nullptr, &input, inputs, 1, names.data(), names.size(), values.data());
    std::vector<std::unique_ptr<OrtValue, void (*)(OrtValue*)>> owned;
    for (OrtValue* value : values) owned.emplace_back(value, api().ReleaseValue);
    check(status);
    for (std::size_t i = 0; i < names.size(); ++i) found[names[i]] = floats(values[i]);
    return found;
  }

 private:
  static std::vector<float> floats(OrtValue* value) {
    Owned<OrtTensorTypeAndShapeInfo> info(api().ReleaseTensorTypeAndShapeInfo);
    check(api().GetTensorTypeAndShape(value, info.out()));
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::size_t count = 0;
    void* data = nullptr;
    check(api().GetTensorElementType(info.get(), &type));
    check(api().GetTensorShapeElementCount(info.get(), &count));
    check(api().GetTensorMutableData(value, &data));
    if (type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) throw Failure(1, "ONNX Runtime: an output is not float32");
    const float* numbers = static_cast<const float*>(data);
    return std::vector<float>(numbers, numbers + count);
  }

  int height_, width_;
  std::vector<std::string> outputs_;
  Owned<OrtEnv> env_;
  Owned<OrtSessionOptions> options_;
  Owned<OrtSession> session_;
  Owned<OrtMemoryInfo> memory_;
};

}  // namespace

std::unique_ptr<Model> open_onnxruntime(Bytes content, int height, int width, const std::vector<std::string>& outputs) {
  return std::make_unique<OnnxRuntimeModel>(content, height, width, outputs);
}

}  // namespace edgekit
