#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace moetap::plugin {

/// A value for a message: cut behind some 80 bytes, never within a character. Bytes that are no UTF-8 are replaced, as
/// the text of a command line may hold any.
std::string short_text(const nlohmann::json& value);

}  // namespace moetap::plugin
