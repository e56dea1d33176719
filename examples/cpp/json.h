// A reader of JSON (RFC 8259), enough for bundle.json. An application that has a JSON library uses that.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace edgekit {

struct Json {
  enum class Kind { null, boolean, number, string, array, object } kind = Kind::null;
  double number = 0;  // of a boolean 0 or 1
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  bool has(const std::string& key) const { return object.count(key) != 0 && object.at(key).kind != Kind::null; }
  // Throws Failure(1) where the key is missing, or its value is of another kind.
  const Json& at(const std::string& key, Kind wanted) const;
};

// Throws Failure(1).
Json parse_json(const std::string& text, const std::string& path);

}  // namespace edgekit
