#pragma once

namespace moetap::plugin {

/// A key of a JSON object that moetap writes. Declared once, used by its name.
struct JsonKey {
  const char* name;
  const char* type;
  const char* unit;  // "" where the value is a pure number, a count or no number
};

}  // namespace moetap::plugin
