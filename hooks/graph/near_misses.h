#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace moetap::hooks {

/// Edits (insertions, deletions, replacements of a character) that turn one text into the other.
size_t edit_distance(const std::string& a, const std::string& b);

/// The `most` candidates (or fewer) that are nearest to a regular expression or a plain text, nearest first. All
/// numbers count as equal, also to patterns that match numbers. Of candidates that differ in numbers only, the first is
/// given.
std::vector<std::string> nearest(const std::string& pattern, const std::vector<std::string>& candidates, size_t most);

}  // namespace moetap::hooks
