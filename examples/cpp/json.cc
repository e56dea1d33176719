#include "json.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "files.h"

namespace edgekit {
namespace {

constexpr int kDeepest = 100;

class Parser {
 public:
  Parser(const std::string& text, const std::string& path) : at_(text.c_str()), end_(at_ + text.size()), path_(path) {}

  Json whole() {
    const Json found = value(0);
    skip();
    if (at_ != end_) fail();
    return found;
  }

 private:
  [[noreturn]] void fail() const { throw Failure(1, path_ + ": is not JSON"); }
  void skip() {
    while (at_ != end_ && std::strchr(" \t\r\n", *at_) != nullptr && *at_ != '\0') ++at_;
  }
  bool taken(char c) {
    skip();
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }
  void take(char c) {
    if (!taken(c)) fail();
  }
  bool word(const char* text) {
    const std::size_t length = std::strlen(text);
    if (static_cast<std::size_t>(end_ - at_) < length || std::memcmp(at_, text, length) != 0) return false;
    at_ += length;
    return true;
  }

  Json value(int depth) {
    if (depth > kDeepest) fail();
    skip();
    if (at_ == end_) fail();
    Json found;
    if (*at_ == '{') {
      found.kind = Json::Kind::object;
      ++at_;
      if (taken('}')) return found;
      do {
        skip();
        const std::string key = string();
        take(':');
        found.object[key] = value(depth + 1);
      } while (taken(','));
      take('}');
    } else if (*at_ == '[') {
      found.kind = Json::Kind::array;
      ++at_;
      if (taken(']')) return found;
      do found.array.push_back(value(depth + 1));
      while (taken(','));
      take(']');
    } else if (*at_ == '"') {
      found.kind = Json::Kind::string;
      found.string = string();
    } else if (word("null")) {
      found.kind = Json::Kind::null;
    } else if (*at_ == 't' || *at_ == 'f') {
      found.kind = Json::Kind::boolean;
      found.number = *at_ == 't';
      if (!word("true") && !word("false")) fail();
    } else {
      char* after = nullptr;
      found.kind = Json::Kind::number;
      found.number = std::strtod(at_, &after);  // the text ends with a 0
      if (after == at_) fail();
      at_ = after;
    }
    return found;
  }

  std::uint32_t four_digits() {
    if (end_ - at_ < 4) fail();
    char* after = nullptr;
    const std::string digits(at_, at_ + 4);
    const auto code = static_cast<std::uint32_t>(std::strtoul(digits.c_str(), &after, 16));
    if (*after != '\0') fail();
    at_ += 4;
    return code;
  }

  std::string string() {
    if (at_ == end_ || *at_++ != '"') fail();
    std::string found;
    while (true) {
      if (at_ == end_) fail();
      const char c = *at_++;
      if (c == '"') return found;
      if (c != '\\') {
        found += c;
        continue;
      }
      if (at_ == end_) fail();
      const char escape = *at_++;
      static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
      if (escape == 'u') {
        std::uint32_t code = four_digits();
        if (code >= 0xd800 && code < 0xdc00 && word("\\u")) code = 0x10000 + ((code - 0xd800) << 10) + (four_digits() - 0xdc00);
        utf8(code, &found);
      } else if (const char* known = std::strchr(from, escape); known != nullptr && escape != '\0') {
        found += to[known - from];
      } else {
        fail();
      }
    }
  }

  static void utf8(std::uint32_t code, std::string* out) {
    const auto more = [&](int shift) { *out += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
    if (code < 0x80) {
      *out += static_cast<char>(code);
    } else if (code < 0x800) {
      *out += static_cast<char>(0xc0 | code >> 6), more(0);
    } else if (code < 0x10000) {
      *out += static_cast<char>(0xe0 | code >> 12), more(6), more(0);
    } else {
      *out += static_cast<char>(0xf0 | (code >> 18 & 7)), more(12), more(6), more(0);
    }
  }

  const char* at_;
  const char* end_;
  const std::string& path_;
};

}  // namespace

const Json& Json::at(const std::string& key, Kind wanted) const {
  const auto found = object.find(key);
  if (found == object.end() || found->second.kind != wanted) throw Failure(1, "bundle.json: no usable \"" + key + "\"");
  return found->second;
}

Json parse_json(const std::string& text, const std::string& path) { return Parser(text, path).whole(); }

}  // namespace edgekit
