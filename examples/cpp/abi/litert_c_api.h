// The part of LiteRT's C interface that this sample uses, for machines where its headers are not at hand: no Python or Debian 12 package
// holds them, but the wheel ai-edge-litert holds the library, libLiteRt.so. With LiteRT's own litert/c in the include path this file is not
// read.
//
// As LiteRT 2.3 has it (litert/c/*.h). Earlier releases load a model without an environment: take headers and library of one release.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct LiteRtEnvironmentT* LiteRtEnvironment;
typedef struct LiteRtModelT* LiteRtModel;
typedef struct LiteRtSignatureT* LiteRtSignature;
typedef struct LiteRtOptionsT* LiteRtOptions;
typedef struct LiteRtCompiledModelT* LiteRtCompiledModel;
typedef struct LiteRtTensorBufferT* LiteRtTensorBuffer;
typedef struct LiteRtTensorBufferRequirementsT* LiteRtTensorBufferRequirements;
typedef struct LiteRtEnvOption LiteRtEnvOption;
typedef size_t LiteRtParamIndex;
typedef int LiteRtHwAcceleratorSet;
typedef enum { kLiteRtStatusOk = 0 } LiteRtStatus;
typedef enum { kLiteRtHwAcceleratorCpu = 1 } LiteRtHwAccelerators;
typedef enum { kLiteRtElementTypeFloat32 = 1, kLiteRtElementTypeUInt8 = 3 } LiteRtElementType;
typedef enum { kLiteRtTensorBufferLockModeRead = 0, kLiteRtTensorBufferLockModeWrite = 1 } LiteRtTensorBufferLockMode;

typedef struct {
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];  // below 0: free
  uint32_t strides[8];
} LiteRtLayout;

typedef struct {
  LiteRtElementType element_type;
  LiteRtLayout layout;
} LiteRtRankedTensorType;

#ifdef __cplusplus
static_assert(sizeof(LiteRtRankedTensorType) == 72, "the layout that LiteRT calls stable");
#endif

LiteRtStatus LiteRtCreateEnvironment(int option_count, const LiteRtEnvOption* options, LiteRtEnvironment* out);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);
LiteRtStatus LiteRtCreateModelFromBuffer(LiteRtEnvironment environment, const void* data, size_t bytes, LiteRtModel* out);
void LiteRtDestroyModel(LiteRtModel model);
LiteRtStatus LiteRtGetModelSignature(LiteRtModel model, LiteRtParamIndex index, LiteRtSignature* out);
LiteRtStatus LiteRtGetNumSignatureOutputs(LiteRtSignature signature, LiteRtParamIndex* out);
LiteRtStatus LiteRtGetSignatureOutputName(LiteRtSignature signature, LiteRtParamIndex index, const char** out);
LiteRtStatus LiteRtCreateOptions(LiteRtOptions* out);
void LiteRtDestroyOptions(LiteRtOptions options);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, LiteRtHwAcceleratorSet accelerators);
LiteRtStatus LiteRtCreateCompiledModel(LiteRtEnvironment environment, LiteRtModel model, LiteRtOptions options, LiteRtCompiledModel* out);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel model);
LiteRtStatus LiteRtGetCompiledModelInputTensorLayout(LiteRtCompiledModel model, LiteRtParamIndex signature, LiteRtParamIndex input, LiteRtLayout* out);
LiteRtStatus LiteRtCompiledModelResizeInputTensor(LiteRtCompiledModel model, LiteRtParamIndex signature, LiteRtParamIndex input, const int* sides, size_t count);
LiteRtStatus LiteRtGetCompiledModelOutputTensorLayouts(LiteRtCompiledModel model, LiteRtParamIndex signature, size_t count, LiteRtLayout* out, bool update_allocation);
LiteRtStatus LiteRtGetCompiledModelInputBufferRequirements(LiteRtCompiledModel model, LiteRtParamIndex signature, LiteRtParamIndex input, LiteRtTensorBufferRequirements* out);
LiteRtStatus LiteRtGetCompiledModelOutputBufferRequirements(LiteRtCompiledModel model, LiteRtParamIndex signature, LiteRtParamIndex output, LiteRtTensorBufferRequirements* out);
LiteRtStatus LiteRtCreateManagedTensorBufferFromRequirements(LiteRtEnvironment environment, const LiteRtRankedTensorType* type, LiteRtTensorBufferRequirements requirements, LiteRtTensorBuffer* out);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);
LiteRtStatus LiteRtLockTensorBuffer(LiteRtTensorBuffer buffer, void** out, LiteRtTensorBufferLockMode mode);
LiteRtStatus LiteRtUnlockTensorBuffer(LiteRtTensorBuffer buffer);
LiteRtStatus LiteRtRunCompiledModel(LiteRtCompiledModel model, LiteRtParamIndex signature, size_t input_count, LiteRtTensorBuffer* inputs, size_t output_count, LiteRtTensorBuffer* outputs);

#ifdef __cplusplus
}
#endif
