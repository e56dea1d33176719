/* The pixels of an image for callers in other languages: Swift through a bridging header, Kotlin through JNI, Python through ctypes. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes what the model takes of an upright 8-bit RGB image: image_size, height x width x 3 bytes.

   bundle_json: the text of bundle.json.
   rgb:         width x height x 3 bytes.
   out:         room for out_bytes bytes.

   Returns the number of bytes written, or 0 where bundle.json is not usable, the image is empty, or out is too small. */
int edgekit_pixels(const char* bundle_json, const uint8_t* rgb, int width, int height, uint8_t* out, size_t out_bytes);

#ifdef __cplusplus
}
#endif
