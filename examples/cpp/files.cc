#include "files.h"

#include <zlib.h>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace edgekit {
namespace {

constexpr std::size_t kMost = std::size_t{1} << 30;  // bytes that one array may unpack to

std::uint32_t rotated(std::uint32_t x, int by) { return x >> by | x << (32 - by); }

// FIPS 180-4, 6.2.2
void sha256_block(std::uint32_t state[8], const std::uint8_t* block) {
  static const std::uint32_t k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
      0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
      0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
      0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
      0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
      0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::uint32_t w[64];
  for (int i = 0; i < 16; ++i) {
    w[i] = std::uint32_t{block[4 * i]} << 24 | std::uint32_t{block[4 * i + 1]} << 16 | std::uint32_t{block[4 * i + 2]} << 8 | block[4 * i + 3];
  }
  for (int i = 16; i < 64; ++i) {
    const std::uint32_t s0 = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
    const std::uint32_t s1 = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  std::uint32_t v[8];
  std::memcpy(v, state, sizeof(v));
  for (int i = 0; i < 64; ++i) {
    const std::uint32_t s1 = rotated(v[4], 6) ^ rotated(v[4], 11) ^ rotated(v[4], 25);
    const std::uint32_t one = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
    const std::uint32_t s0 = rotated(v[0], 2) ^ rotated(v[0], 13) ^ rotated(v[0], 22);
    const std::uint32_t two = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
    std::memmove(v + 1, v, 7 * sizeof(v[0]));
    v[4] += one;
    v[0] = one + two;
  }
  for (int i = 0; i < 8; ++i) state[i] += v[i];
}

// Little-endian numbers of a file, each checked to be inside it.
class Reader {
 public:
  Reader(const Bytes& content, const std::string& path) : content_(content), path_(path) {}

  std::uint64_t number(std::size_t at, int bytes) const {
    need(at, bytes);
    std::uint64_t value = 0;
    for (int i = bytes; i-- > 0;) value = value << 8 | content_[at + i];
    return value;
  }
  std::string text(std::size_t at, std::size_t bytes) const {
    need(at, bytes);
    return std::string(content_.begin() + at, content_.begin() + at + bytes);
  }
  void need(std::size_t at, std::size_t bytes) const {
    if (at > content_.size() || bytes > content_.size() - at) fail();
  }
  [[noreturn]] void fail() const { throw Failure(1, path_ + ": is not a NumPy archive"); }

 private:
  const Bytes& content_;
  const std::string& path_;
};

Bytes inflated(const std::uint8_t* data, std::size_t packed, std::size_t size, const Reader& file) {
  Bytes out(size);
  z_stream stream{};
  if (packed > std::numeric_limits<uInt>::max() || inflateInit2(&stream, -MAX_WBITS) != Z_OK) file.fail();
  stream.next_in = const_cast<Bytef*>(data);
  stream.avail_in = static_cast<uInt>(packed);
  stream.next_out = out.data();
  stream.avail_out = static_cast<uInt>(size);
  const int end = inflate(&stream, Z_FINISH);
  const bool complete = end == Z_STREAM_END && stream.total_out == size;
  inflateEnd(&stream);
  if (!complete) file.fail();
  return out;
}

// What follows `'key':` in the header of a .npy, up to the end of it.
std::string after(const std::string& header, const std::string& key, const Reader& file) {
  const std::size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) file.fail();
  return header.substr(header.find_first_not_of(' ', at + key.size() + 3));
}

// numpy.lib.format, versions 1 and 2
Array npy(const Bytes& content, const std::string& path) {
  const Reader file(content, path);
  if (file.text(0, 6) != "\x93NUMPY") file.fail();
  const int wide = file.number(6, 1) == 1 ? 2 : 4;
  const std::size_t length = file.number(8, wide), start = 8 + wide + length;
  const std::string header = file.text(8 + wide, length);
  Array found;
  const std::string type = after(header, "descr", file);
  found.type = type.substr(1, type.find('\'', 1) - 1);
  if (after(header, "fortran_order", file).rfind("False", 0) != 0) file.fail();
  const std::string shape = after(header, "shape", file);
  for (const char* at = shape.c_str(); *at && *at != ')'; ++at) {
    if (std::isdigit(static_cast<unsigned char>(*at))) {
      char* end = nullptr;
      found.shape.push_back(std::strtoll(at, &end, 10));
      at = end - 1;
    }
  }
  const std::size_t item = found.type == "<f4" ? 4 : found.type == "|u1" ? 1 : 0;
  std::size_t bytes = item;
  for (std::int64_t side : found.shape) {
    if (side < 0 || (side > 0 && bytes > kMost / side)) file.fail();
    bytes *= side;
  }
  if (item == 0 || content.size() - start != bytes) file.fail();
  found.data.assign(content.begin() + start, content.end());
  return found;
}

}  // namespace

std::int64_t Array::count() const {
  std::int64_t product = 1;
  for (std::int64_t side : shape) product *= side;
  return product;
}

Bytes read_file(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) throw Failure(2, path + ": cannot be opened");
  Bytes content;
  std::uint8_t block[1 << 16];
  for (std::size_t count; (count = std::fread(block, 1, sizeof(block), file)) > 0;) content.insert(content.end(), block, block + count);
  const bool failed = std::ferror(file) != 0;
  std::fclose(file);
  if (failed) throw Failure(2, path + ": cannot be read");
  return content;
}

std::string sha256(const Bytes& content) {
  std::uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const std::size_t whole = content.size() / 64 * 64;
  for (std::size_t at = 0; at < whole; at += 64) sha256_block(state, content.data() + at);
  Bytes tail(content.begin() + whole, content.end());
  tail.push_back(0x80);
  while (tail.size() % 64 != 56) tail.push_back(0);
  for (int i = 7; i >= 0; --i) tail.push_back(static_cast<std::uint8_t>(std::uint64_t{content.size()} * 8 >> 8 * i));
  for (std::size_t at = 0; at < tail.size(); at += 64) sha256_block(state, tail.data() + at);
  char text[65];
  for (int i = 0; i < 8; ++i) std::snprintf(text + 8 * i, 9, "%08x", state[i]);
  return text;
}

std::map<std::string, Array> read_npz(const Bytes& content, const std::string& path) {
  const Reader file(content, path);
  if (content.size() < 22) file.fail();
  std::size_t end = content.size() - 22;  // the end of the central directory, behind which there may be a comment
  while (file.number(end, 4) != 0x06054b50) {
    if (end-- == 0) file.fail();
  }
  std::size_t at = file.number(end + 16, 4);
  std::map<std::string, Array> found;
  for (std::uint64_t left = file.number(end + 10, 2); left > 0; --left) {
    if (file.number(at, 4) != 0x02014b50) file.fail();
    const std::uint64_t method = file.number(at + 10, 2), packed = file.number(at + 20, 4), size = file.number(at + 24, 4);
    const std::size_t name_bytes = file.number(at + 28, 2), local = file.number(at + 42, 4);
    const std::string name = file.text(at + 46, name_bytes);
    at += 46 + name_bytes + file.number(at + 30, 2) + file.number(at + 32, 2);
    const std::size_t start = local + 30 + file.number(local + 26, 2) + file.number(local + 28, 2);
    file.need(start, packed);
    if (size > kMost || (method != 0 && method != 8) || (method == 0 && packed != size)) file.fail();
    const std::uint8_t* data = content.data() + start;
    const Bytes member = method == 8 ? inflated(data, packed, size, file) : Bytes(data, data + size);
    found[name.substr(0, name.rfind(".npy"))] = npy(member, path);
  }
  return found;
}

Image read_ppm(const std::string& path) {
  const Bytes content = read_file(path);
  const auto fail = [&path](const char* why) { throw Failure(2, path + ": " + why); };
  std::size_t at = 2;
  const auto number = [&]() {
    while (at < content.size() && (std::isspace(content[at]) || content[at] == '#')) {
      if (content[at++] == '#') while (at < content.size() && content[at] != '\n') ++at;
    }
    int value = 0;
    while (at < content.size() && std::isdigit(content[at]) && value < 100000) value = 10 * value + content[at++] - '0';
    return value;
  };
  if (content.size() < 2 || content[0] != 'P' || content[1] != '6') fail("is not a binary PPM (P6); convert it first");
  const int width = number(), height = number(), largest = number();
  const std::size_t bytes = std::size_t{3} * width * height;
  if (largest != 255) fail("does not have 8 bits a channel");
  if (bytes == 0 || content.size() - at != bytes + 1) fail("is cut, or has an empty side");
  return {width, height, Bytes(content.begin() + at + 1, content.end())};
}

}  // namespace edgekit
